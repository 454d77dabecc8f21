"""Section 14: what the compiled core does in place of the Python code."""

from __future__ import annotations

from .mutation import Mutation

HOSTILE = "tests/transport/test_hostile.py"
RETRY = "tests/transport/test_retry.py"
SHUTDOWN = "tests/transport/test_shutdown.py"
TIME = "tests/transport/test_time.py"
WRITES = "tests/transport/test_writes.py"
FORKS = "tests/fork/test_forks_without_hooks.py"
SINGLE = "tests/integration/test_single.py"


def core(name: str, rule: str, old: str, new: str, *tests: str) -> Mutation:
    """Return a mutation of the compiled core."""
    return Mutation(f"14-{name}", rule, "_core.c", old, new, tests)


CORE = (
    core(
        "early-outcome",
        "an outcome that comes before its call waits is kept",
        "    self->outcome = Py_NewRef(outcome);\n",
        "    if (self->greenlet != NULL) self->outcome = Py_NewRef(outcome);\n",
        "tests/transport/test_interruptions.py",
        "-k",
        "nested_call",
    ),
    core(
        "interrupted-leaves-nothing",
        "a call that is interrupted removes its entry",
        "        clean_up(call->books, name_abandon, call->seqid, (PyObject *)slot);",
        "        (void)slot;",
        TIME,
        "-k",
        "killed_callers",
    ),
    core(
        "no-collection-after-a-write",
        "no finalizer runs between a write and the storage of its result",
        "int collects = PyGC_Disable();",
        "int collects = 0;",
        WRITES,
        "-k",
        "finalizer",
    ),
    Mutation(
        "14-read-before-a-write",
        "a connection reads the replies that are here before it writes",
        "transport/outbox.py",
        "            self.arrived()\n",
        "            pass\n",
        (WRITES, "-k", "write_comes"),
    ),
    core(
        "reply-once",
        "a reply removes the entry of its call",
        "int failed = PyDict_DelItem(pending, seqid) < 0               ? -1",
        "int failed = PyErr_Occurred()                                 ? -1",
        TIME,
        "-k",
        "reordered",
    ),
    core(
        "outcome-of-the-call",
        "a greenlet takes only the outcome of its present call",
        "if (is_in != context) return",
        "if (is_in == NULL) return",
        "tests/transport/test_interruptions.py",
        "-k",
        "nested",
    ),
    core(
        "ids-in-use",
        "a sequence id that is in use is skipped",
        " && !PyDict_Contains(books->pending, seqid)) return seqid;",
        ") return seqid;",
        TIME,
        "-k",
        "in_use_are_skipped",
    ),
    core(
        "ids-wrap",
        "sequence ids stay within 31 bits",
        "PyLong_AsLong(seqid) <= 0x7FFFFFFF && ",
        "",
        TIME,
        "-k",
        "wrap",
    ),
    core(
        "late-replies",
        "a reply for which no call waits is counted",
        "COUNT(self->peer, name_late, 1)",
        "COUNT(self->peer, name_late, 0)",
        TIME,
        "-k",
        "late_replies",
    ),
    core(
        "partial-write",
        "the bytes that the kernel did not take are sent later",
        "if (sent >= 0 && sent < size) {",
        "if (sent >= 0 && (sent = size) < 0) {",
        WRITES,
        "-k",
        "partial",
    ),
    core(
        "one-write",
        "the requests that callers make on replies share one write",
        "return self->_in_pass ? 0 : alone",
        "return self->_in_pass ? flush(self) : alone",
        WRITES,
        "-k",
        "share_one_write",
    ),
    core(
        "in-flight",
        "no more requests are in flight than the option allows",
        " && PyDict_Size(self->pending) < self->_max_in_flight;",
        ";",
        WRITES,
        "-k",
        "in_flight_limit",
    ),
    core(
        "incomplete-reply",
        "an incomplete reply waits for its rest",
        "came <= 0 || pos < came || total",
        "came <= 0 || total",
        HOSTILE,
    ),
    core(
        "end-of-stream",
        "the end of the stream ends the connection",
        "if (came <= 0 || pos < came",
        "if (came == 0) return Py_NewRef(Py_None);\n    if (came < 0 || pos < came",
        TIME,
        "-k",
        "end_of_the_stream",
    ),
    core(
        "fork",
        "a child of a fork without hooks sends nothing on the parent's connections",
        "static int in_parent(void) { return own_page != NULL && *own_page; }",
        "static int in_parent(void) { return own_page != NULL; }",
        FORKS,
    ),
    core(
        "deadline",
        "the deadline of every call is watched",
        "if (deadline >= self->_wake_at) return 0;",
        "if (deadline >= 0.0) return 0;",
        TIME,
        "-k",
        "timeout_of_the_client",
    ),
    core(
        "loop-ends",
        "a connection without waiting calls does not keep the loop running",
        "        self->_referenced = 0;\n",
        "",
        SHUTDOWN,
        "-k",
        "idle_client",
    ),
    core(
        "silence-ends",
        "a connection that owes no reply is not silent",
        "self->silent_since = rests ? 0.0 : self->heard;",
        "(void)rests;",
        TIME,
        "-k",
        "silen",
    ),
    core(
        "status",
        "a status of the storage engine is an error",
        "fields) || read_u32(at + 3) > (uint32_t)gets)",
        "fields))",
        "tests/faults/test_writes.py",
        "-k",
        "storage_status",
    ),
    core(
        "frame-error",
        "a refusal of the server is no reply",
        "memcmp(raw(outcome) + 4, raw(ok), (size_t)PyBytes_Size(ok)) == 0",
        "PyBytes_Size(ok)",
        RETRY,
    ),
    core(
        "expiry",
        "a set sends its expiry",
        "    write_u32(at, (uint32_t)expire);\n",
        "    write_u32(at, (uint32_t)expire * 0);\n",
        SINGLE,
        "-k",
        "ttl",
    ),
    core(
        "empty-hash-key",
        "the sort key is hashed if the hash key is empty",
        "PyBytes_Size(hash_key) ? hash_key : sort_key;",
        "hash_key;",
        SINGLE,
        "-k",
        "empty_hash_key",
    ),
    core(
        "callers-of-other-hubs",
        "a greenlet that another hub serves takes the general path",
        "int found = parent == hub || (above != NULL && above == caller);",
        "int found = parent || above || hub;",
        "tests/transport/test_threads.py",
        "-k",
        "another_thread",
    ),
    core(
        "destroyed-hub",
        "a call of the main greenlet does not use a hub that was destroyed",
        "IS_SET(loop) ? greenlet_parent(hub) : NULL",
        "loop ? greenlet_parent(hub) : NULL",
        "tests/transport/test_destroyed_hub.py",
        "-k",
        "calls",
    ),
)
