"""Sections 4, 5 and 10: what an error means for a call, the storage's status, and writes."""

from __future__ import annotations

from .mutation import Mutation
from .rules_servers import REPORTS, RETRY, TIME

OPTIONS = ("tests/unit/test_options_retry.py",)
UNSENT = "tests/faults/test_writes.py::test_what_was_never_sent_may_be_repeated"


def _reaction(name: str, reaction: str, instead: str) -> Mutation:
    what = {
        "_REROUTE": "refreshes the route and is repeated",
        "_LATER": "is repeated without a refresh",
        "_MUCH_LATER": "is repeated after longer pauses",
    }
    short = name.removeprefix("ERR_").replace("_", "-") + ("" if instead == "_SURFACE" else instead.replace("_", "-"))
    return Mutation(
        f"4-{short.lower()}",
        f"{name} {what[reaction]}",
        "retry.py",
        f'"{name}": {reaction}',
        f'"{name}": {instead}',
        (RETRY, *OPTIONS, "-k", f"{name} or reactions"),
    )


CALLS = (
    # ------------------------------------------------------------------------------ 4 which error means what
    _reaction("ERR_OBJECT_NOT_FOUND", "_REROUTE", "_SURFACE"),
    _reaction("ERR_OBJECT_NOT_FOUND", "_REROUTE", "_LATER"),
    _reaction("ERR_INVALID_STATE", "_REROUTE", "_SURFACE"),
    _reaction("ERR_INACTIVE_STATE", "_REROUTE", "_SURFACE"),
    _reaction("ERR_TRY_AGAIN", "_REROUTE", "_SURFACE"),
    _reaction("ERR_NOT_ENOUGH_MEMBER", "_LATER", "_SURFACE"),
    _reaction("ERR_NOT_ENOUGH_MEMBER", "_LATER", "_REROUTE"),
    _reaction("ERR_CAPACITY_EXCEEDED", "_LATER", "_SURFACE"),
    _reaction("ERR_BUSY", "_MUCH_LATER", "_SURFACE"),
    _reaction("ERR_SPLITTING", "_MUCH_LATER", "_SURFACE"),
    Mutation(
        "4-refresh-without-repeat",
        "a refusal that speaks of routing refreshes them also where the call is not repeated",
        "cluster/attempt.py",
        "if what is not None and what.refresh:",
        "if what is not None and what.refresh and may_repeat(self.retry, self.number):",
        ("tests/transport/test_refresher.py", "-k", "nothing_is_repeated"),
    ),
    Mutation(
        "4-busy-is-not-hammered",
        "a server that throttles is asked again after longer pauses",
        "retry.py",
        "(self.busy_factor if slow else 1.0)",
        "1.0",
        (RETRY, *OPTIONS, "-k", "hammered or pauses"),
    ),
    Mutation(
        "4-busy-is-busy",
        "throttling surfaces as its own error at the deadline",
        "cluster/attempt.py",
        'if last.code in ("ERR_BUSY", "ERR_SPLITTING", "ERR_NOT_ENOUGH_MEMBER", "ERR_CAPACITY_EXCEEDED"):',
        "if False:",
        (RETRY, "-k", "until_the_deadline"),
    ),
    Mutation(
        "4-unknown-name",
        "an unknown error name, like one that nothing helps against, is surfaced with its name",
        "retry.py",
        "return REACTIONS.get(code, _SURFACE)",
        "return REACTIONS.get(code, _LATER)",
        (f"{REPORTS}[ERR_NEVER_HEARD_OF]", f"{REPORTS}[ERR_DISK_IO_ERROR]"),
    ),
    Mutation(
        "4-ok-without-result",
        "ERR_OK without a result is a rejected write",
        "cluster/attempt.py",
        "        if reply.offset is None:\n            if rpc.is_write:",
        "        if reply.offset is None:\n            if not rpc.is_write:",
        (f"{REPORTS}[no body]",),
    ),
    Mutation(
        "4-ok-without-result-fast",
        "the same on the shortest way of a call",
        "cluster/dispatcher.py",
        "if type(outcome) is bytes and len(outcome) > rpc.body_offset and",
        "if type(outcome) is bytes and len(outcome) > 0 and",
        (f"{REPORTS}[no body]",),
    ),
    Mutation(
        "4-ambiguous-is-not-repeated",
        "a write that must not be repeated is not, when its connection was lost behind it",
        "cluster/attempt.py",
        "return Reaction(retry=self.rpc.repeatable or not error.sent, refresh=True)",
        "return Reaction(retry=True, refresh=True)",
        (f"{REPORTS}[reset after]",),
    ),
    Mutation(
        "4-idempotent-is-repeated",
        "reads and idempotent writes are repeated when their connection was lost",
        "cluster/attempt.py",
        "return Reaction(retry=self.rpc.repeatable or not error.sent, refresh=True)",
        "return Reaction(retry=not error.sent, refresh=True)",
        (f"{REPORTS}[reset before]",),
    ),
    Mutation(
        "4-unsent-is-safe",
        "what was not sent may always be repeated",
        "cluster/attempt.py",
        "return Reaction(retry=self.rpc.repeatable or not error.sent, refresh=True)",
        "return Reaction(retry=self.rpc.repeatable, refresh=True)",
        (UNSENT,),
    ),
    Mutation(
        "4-incr-is-not-idempotent",
        "incr is never repeated while its outcome is unknown",
        "protocol/rpc.py",
        "rrdb.IncrRequest, rrdb.IncrResponse, write=True, repeatable=False",
        "rrdb.IncrRequest, rrdb.IncrResponse, write=True",
        (f"{REPORTS}[half a reply]",),
    ),
    Mutation(
        "4-cas-is-not-idempotent",
        "check_and_set is never repeated while its outcome is unknown",
        "protocol/rpc.py",
        "rrdb.CheckAndSetRequest, rrdb.CheckAndSetResponse, write=True, repeatable=False",
        "rrdb.CheckAndSetRequest, rrdb.CheckAndSetResponse, write=True",
        (f"{REPORTS}[half a reply]",),
    ),
    Mutation(
        "4-timeout-is-unknown",
        "a write that timed out says that its outcome is unknown",
        "cluster/attempt.py",
        "error.outcome_unknown = self.unanswered",
        "error.outcome_unknown = False",
        (f"{REPORTS}[no reply]",),
    ),
    Mutation(
        "4-once-unknown",
        "once unknown, an outcome stays unknown whatever the next attempt meets",
        "cluster/attempt.py",
        "        if error.sent:\n            self.unanswered = True",
        "        self.unanswered = error.sent",
        (RETRY, TIME, "-k", "stays_unknown or moved_write"),
    ),
    Mutation(
        "4-back-off-grows",
        "pauses grow exponentially up to a cap",
        "retry.py",
        "full = self.base * (2.0 ** min(attempt - 1, 20))",
        "full = self.base",
        OPTIONS,
    ),
    Mutation(
        "4-back-off-jitter",
        "pauses have jitter",
        "retry.py",
        "return min(full, self.cap) * (0.5 + random.random() / 2)",
        "return min(full, self.cap)",
        OPTIONS,
    ),
    Mutation(
        "4-no-pause-past-the-deadline",
        "no pause goes past the deadline",
        "cluster/attempt.py",
        "        if delay < left:\n",
        "        if delay < left + 60.0:\n",
        (RETRY, "-k", "past_the_deadline"),
    ),
    Mutation(
        "4-attempts-are-told",
        "an error tells how many attempts were made",
        "cluster/attempt.py",
        "error.attempts = self.number",
        "error.attempts = 0",
        (RETRY,),
    ),
    Mutation(
        "4-last-error-is-told",
        "a timeout tells the last error",
        "cluster/attempt.py",
        "error.last_error = error.last_error or (self.last if self.last is not error else None)",
        "error.last_error = None",
        (RETRY,),
    ),
    Mutation(
        "4-sent-is-told",
        "a timeout tells whether the request had been sent",
        "transport/connection.py",
        'late = RequestTimeout("no reply in time", address=self.peer.address, sent=sent)',
        'late = RequestTimeout("no reply in time", address=self.peer.address)',
        (f"{REPORTS}[no reply]",),
    ),
    # ------------------------------------------------------------------------------------- 5 storage status
    Mutation(
        "5-not-found",
        "status 1 is an absent record, no error",
        "operations/base.py",
        "        if status == 1:\n            return default\n",
        "        if status == 255:\n            return default\n",
        ("tests/integration/test_single.py", "-k", "absent"),
    ),
    Mutation(
        "5-invalid-argument",
        "status 4 of incr is an error of its own",
        "operations/single.py",
        "        if response.error != 4:\n",
        "        if response.error:\n",
        ("tests/integration/test_single.py", "-k", "incr"),
    ),
    Mutation(
        "5-incomplete",
        "status 7 hands the rows over and says that there is more",
        "operations/multi.py",
        "complete=found.status == _OK",
        "complete=True",
        ("tests/integration/test_multi.py", "-k", "limits"),
    ),
    Mutation(
        "5-check-not-passed",
        "status 13 is a check that did not pass, a normal result",
        "operations/atomic.py",
        "if response.error in (0, _NOT_PASSED):",
        "if response.error == 0:",
        ("tests/integration/test_atomic.py", "-k", "by_every_check"),
    ),
    Mutation(
        "5-other-status",
        "any other status is a storage error with that number",
        "operations/base.py",
        "        if status:\n            raise self._storage_error(rpc, status, frame)",
        "        if status and status < 0:\n            raise self._storage_error(rpc, status, frame)",
        ("tests/faults/test_writes.py", "-k", "storage_engine"),
    ),
    # ------------------------------------------------------------------- 10 no acknowledged write is lost
    Mutation(
        "10-acknowledged-is-applied",
        "a write is reported as done only when a server said so",
        "cluster/attempt.py",
        '        if reply.error != "ERR_OK":\n',
        '        if reply.error != "ERR_OK" and not rpc.is_write:\n',
        (f"{REPORTS}[refused with a body]",),
    ),
    Mutation(
        "10-retry-none",
        "retry=None excludes repetitions",
        "cluster/attempt.py",
        "return policy is not None and (policy.max_attempts is None or number < policy.max_attempts)",
        "return policy is None or policy.max_attempts is None or number < policy.max_attempts",
        (RETRY, "-k", "retry_none"),
    ),
)
