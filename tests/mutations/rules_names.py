"""Section 2 about names: several names of one server, names of several servers, forgetting; deadline scopes."""

from __future__ import annotations

from .mutation import Mutation

NAMES_TESTS = "tests/transport/test_names.py"
METAS_TESTS = "tests/transport/test_metas.py"
SCOPES_TESTS = "tests/integration/test_scopes.py"

NAMES = (
    Mutation(
        "2-address-after-the-name",
        "the address of a route is tried if its host name is unreachable",
        "transport/pool.py",
        "if self.other and self.other != self.address else [self.address]",
        "if False else [self.address]",
        (NAMES_TESTS, "-k", "name_is_unreachable"),
    ),
    Mutation(
        "2-address-of-a-secondary",
        "the address of a secondary is known, too",
        "cluster/routing.py",
        "others.update((name, address)",
        "dict().update((name, address)",
        (NAMES_TESTS, "-k", "secondary"),
    ),
    Mutation(
        "2-ways-beside-each-other",
        "the next name of a server is tried while the first is silent",
        "transport/reach.py",
        "next_at = now + STAGGER",
        "next_at = now + 60.0",
        (NAMES_TESTS, "-k", "is_unreachable"),
    ),
    Mutation(
        "2-address-of-a-forward",
        "a leader that is named by a host name is reached by its address",
        "cluster/meta.py",
        "self._pool.peer(address, self.metas.other(address))",
        "self._pool.peer(address)",
        (NAMES_TESTS, "-k", "leader_with_an_unresolvable_name"),
    ),
    Mutation(
        "2-a-name-of-several",
        "each address of a name is a separate meta server",
        "cluster/metas.py",
        "if len(addresses) > 1:",
        "if len(addresses) > 100:",
        (NAMES_TESTS, "-k", "every_address_of"),
    ),
    Mutation(
        "2-a-name-of-several-again",
        "a name of several servers is resolved again when all have failed",
        "cluster/meta.py",
        "self._resolve(again=True)",
        "pass",
        (NAMES_TESTS, "-k", "resolved_again"),
    ),
    Mutation(
        "2-learnt-metas-are-forgotten",
        "meta servers learned from forwards are forgotten when they fail",
        "cluster/metas.py",
        "for oldest in self._newest_last()[:-MAX_LEARNT]:",
        "for oldest in ():",
        (NAMES_TESTS, "-k", "learned"),
    ),
    Mutation(
        "2-metas-of-several-threads",
        "a thread may forget a meta server while another one reports its failure",
        "cluster/metas.py",
        "self._learnt.pop(address, None)",
        "del self._learnt[address]",
        (METAS_TESTS,),
    ),
    Mutation(
        "2-moved-servers-are-forgotten",
        "servers without a route are forgotten",
        "transport/pool.py",
        "elif now - peer.unused_since >= grace:",
        "elif now - peer.unused_since >= 3600.0:",
        (NAMES_TESTS, "-k", "moved_away"),
    ),
    Mutation(
        "2-missing-tables-are-not-looked-up",
        "only calls query a missing table, not the periodic refresh",
        "cluster/refresher.py",
        "elif self._options.refresh_period and self.table is not None:",
        "elif self._options.refresh_period:",
        (NAMES_TESTS, "-k", "lookups and end"),
    ),
    Mutation(
        "2-missing-tables-are-forgotten",
        "names of missing tables are forgotten",
        "cluster/tables.py",
        "for oldest in list(self._unknown)[:-MAX_UNKNOWN]:",
        "for oldest in ():",
        (NAMES_TESTS, "-k", "lookups and end"),
    ),
    Mutation(
        "2-a-table-that-comes-is-kept",
        "an existing table stays known without a handle",
        "cluster/tables.py",
        "            self._existing[name] = found\n",
        "",
        (NAMES_TESTS, "-k", "created_later"),
    ),
    Mutation(
        "9-scope-of-a-generator",
        "a deadline scope in a generator does not bound its consumer",
        "cluster/scopes.py",
        "frame.f_code.co_flags & _SUSPENDABLE",
        "False",
        (SCOPES_TESTS, "-k", "generator"),
    ),
    Mutation(
        "9-scope-of-a-greenlet-that-ended",
        "the scope of an ended greenlet bounds no call",
        "cluster/scopes.py",
        "if at < deadline and owner() is caller and scope() is not None:",
        "if at < deadline and scope() is not None:",
        (SCOPES_TESTS, "-k", "left_in_another"),
    ),
    Mutation(
        "9-scope-that-is-dropped",
        "a garbage-collected scope is left",
        "cluster/scopes.py",
        "    def __del__(self) -> None:",
        "    def _unused(self) -> None:",
        (SCOPES_TESTS, "-k", "yields_during_close"),
    ),
)
