"""Section 13: whatever strikes between two steps, what was started and then failed, forks, and paths that die."""

from __future__ import annotations

from .mutation import Mutation

STRIKES_TESTS = "tests/transport/test_strikes.py"
FORKS_TESTS = "tests/fork/test_forks_without_hooks.py"

STRIKES = (
    Mutation(
        "13-outcome-of-the-call",
        "a greenlet takes the outcome of the call only that it is in",
        "transport/connection.py",
        "if context is None or taker.gr_context is context:\n                    del pending[seqid]",
        "if True:\n                    del pending[seqid]",
        (STRIKES_TESTS, "-k", "nested"),
    ),
    Mutation(
        "13-interrupted-leaves-nothing",
        "a call that is interrupted takes its entry away",
        "transport/handover.py",
        "        self.withdraw(seqid)\n        self.pending.pop(seqid, None)",
        "        self.withdraw(seqid)",
        (STRIKES_TESTS, "-k", "interrupted_call"),
    ),
    Mutation(
        "13-owner-unknown-id",
        "a request whose id the interrupted caller does not know is found by its owner",
        "transport/handover.py",
        "if entry[0] is owner or entry[3] is owner:",
        "if False:",
        (STRIKES_TESTS, "-k", "interrupted_call"),
    ),
    Mutation(
        "13-timer-repeats",
        "a look at the deadlines that is interrupted comes again",
        "transport/connection.py",
        "self.hub.loop.timer(delay(at - now), TICK)",
        "self.hub.loop.timer(delay(at - now))",
        (STRIKES_TESTS, "-k", "deadline_check"),
    ),
    Mutation(
        "13-question-that-died",
        "a meta server whose question died without an answer is asked again",
        "cluster/meta.py",
        "            if greenlet.ready():\n                del self.owed[address]",
        "            if False:\n                del self.owed[address]",
        (STRIKES_TESTS, "-k", "meta_query"),
    ),
    Mutation(
        "13-look-up-that-died",
        "a name whose look-up died is looked up again",
        "cluster/meta.py",
        "return greenlet is not None and not greenlet.ready()",
        "return greenlet is not None",
        (STRIKES_TESTS, "-k", "name_lookup"),
    ),
    Mutation(
        "13-undo",
        "a connection that was opened and cannot be used is closed",
        "transport/pool.py",
        'connection.close(ConnectionLost("interrupted while it was opened", address=peer.address))',
        "pass",
        (STRIKES_TESTS, "-k", "watcher"),
    ),
    Mutation(
        "13-wipe-on-fork",
        "a fork without hooks is noticed by a page that the kernel wipes",
        "transport/fork.py",
        "        made.madvise(_WIPE_ON_FORK)\n",
        "",
        (FORKS_TESTS,),
    ),
    Mutation(
        "13-dead-path",
        "the kernel is asked to end connections on dead paths",
        "transport/connection.py",
        "            notice_dead_paths(self._socket, self._options.path_timeout)\n",
        "",
        (STRIKES_TESTS, "-k", "dead_after"),
    ),
    Mutation(
        "13-keep-alive",
        "idle connections are probed three times within the path timeout",
        "transport/sockets.py",
        "probe = max(int(seconds / 3), 1)",
        "probe = 60",
        (STRIKES_TESTS, "-k", "acknowledgements"),
    ),
    Mutation(
        "13-unacknowledged",
        "what nobody acknowledges ends a connection after the path timeout",
        "transport/sockets.py",
        '"TCP_USER_TIMEOUT": limit',
        '"TCP_USER_TIMEOUT": 60_000',
        (STRIKES_TESTS, "-k", "acknowledgements or dead_after"),
    ),
)
