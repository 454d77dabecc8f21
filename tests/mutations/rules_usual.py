"""Rules of the usual get and put without the compiled core, and of rows that are read together."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

USUAL = "cluster/usual.py"
TESTS = "tests/transport/test_usual_calls.py"
WAYS = "tests/transport/test_interruptions.py"

USUAL_CALLS = (
    Mutation(
        "1-modulus-of-a-usual-call",
        "the index is the hash modulo any partition count",
        USUAL,
        "route = table.targets[hash_ % table.count]",
        "route = table.targets[hash_ & (table.count - 1)]",
        ("tests/integration/test_batch_get.py", "-k", "any_number_of_partitions"),
    ),
    Mutation(
        "1-modulus-of-many",
        "the same for the verbs of many records",
        "bulk.py",
        "route = table.targets[partition_hash % table.count]",
        "route = table.targets[partition_hash & (table.count - 1)]",
        ("tests/integration/test_batch_get.py", "-k", "any_number_of_partitions"),
    ),
    Mutation(
        "9-scope-of-a-usual-call",
        "a call in a block of client.deadline() ends with the block's deadline",
        USUAL,
        "if scopes or started",
        "if started",
        (TESTS, "-k", "scope"),
    ),
    Mutation(
        "8-listener-of-a-usual-call",
        "listeners hear of every call",
        USUAL,
        " or started is not None",
        "",
        ("tests/integration/test_observability.py",),
    ),
    Mutation(
        "6-ttl-of-a-set",
        "a TTL that is empty, but no number, is refused",
        "operations/single.py",
        "expires = 0 if ttl is None else expire_ts(ttl)",
        "expires = expire_ts(ttl) if ttl else 0",
        ("tests/integration/test_single.py", "-k", "bad_ttls"),
    ),
    Mutation(
        "3-usual-call-of-another-greenlet",
        "a greenlet that the hub does not serve waits in another way",
        USUAL,
        " or caller.parent is not hub",
        "",
        ("tests/integration/test_callbacks.py", "tests/transport/test_threads.py"),
    ),
    Mutation(
        "9-large-usual-put",
        "a put over the limits of the usual path takes the general path",
        USUAL,
        "length + 28 + len(value) > largest",
        "False",
        (TESTS, "-k", "size"),
    ),
    Mutation(
        "13-usual-call-is-abandoned",
        "an interrupted call removes its request",
        USUAL,
        "                connection.abandon(seqid, context)\n                raise\n        except BaseException:\n"
        "            # Do this even if the clean-up itself is interrupted.\n"
        "            connection.abandon(seqid, context)\n",
        "                raise\n        except BaseException:\n",
        (WAYS, "-k", "is_dropped"),
    ),
    Mutation(
        "13-id-of-another-call",
        "an interrupted call abandons no other call that has the id that it was about to use",
        USUAL,
        "number = next(session.ids)",
        "number = seqid = next(session.ids)",
        (WAYS, "-k", "same_id"),
    ),
    Mutation(
        "13-usual-call-in-its-context",
        "only a greenlet that waits for this call gets its outcome",
        USUAL,
        "route if repeats else None, context)",
        "route if repeats else None, None)",
        (WAYS, "-k", "nested_call_gets"),
    ),
    Mutation(
        "13-cycle-of-a-usual-call",
        "a failed call leaves no reference cycle",
        USUAL,
        "        outcome = caller = None\n",
        "        pass\n",
        ("tests/faults/test_no_cycles.py", "-k", "failed_call_of_any_verb or killed"),
    ),
    Mutation(
        "2-usual-call-moves",
        "a call whose partition moves is sent to the new primary",
        USUAL,
        "route if repeats else None, context)",
        "None, context)",
        (TESTS, "-k", "moves"),
    ),
    Mutation(
        "4-ending-of-a-usual-reply",
        "only a reply with a known ending is decoded without the general decoder",
        "protocol/fast.py",
        "if frame[end:] in _known_endings:",
        "if True:",
        ("tests/transport/test_hostile.py", "-k", "its_own_call"),
    ),
    Mutation(
        "4-name-of-a-usual-reply",
        "a reply to another RPC is not decoded as the reply to a get",
        "protocol/fast.py",
        "if head == _OK_VALUE and start == GET.ok_head:",
        "if head == _OK_VALUE:",
        (TESTS, "-k", "another_name"),
    ),
    Mutation(
        "13-frames-of-an-interrupted-flush",
        "large frames are sent after an interrupted flush",
        "transport/outbox.py",
        "                self._out_bytes = self.queued_bytes - self._backlog_bytes\n",
        "",
        ("tests/transport/test_writes.py", "-k", "interrupted_flush"),
    ),
    Mutation(
        "6-end-of-a-run-of-rows",
        "rows are read together only while their sizes are equal",
        "protocol/rows.py",
        "if start != head or field != middle:",
        "if start != head:",
        ("tests/unit/test_protocol_rows.py", "-k", "run or together"),
    ),
    Mutation(
        "6-keys-of-a-run-of-rows",
        "rows are read together only while the sizes of their keys are equal",
        "protocol/rows.py",
        "if start != head or field != middle:",
        "if field != middle:",
        ("tests/unit/test_protocol_rows.py", "-k", "run or together"),
    ),
)
