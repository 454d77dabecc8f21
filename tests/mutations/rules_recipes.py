"""Section 11: recipes."""

from __future__ import annotations

from .mutation import Mutation

LOCKS = "tests/recipes/test_locks.py"
LIMITS = "tests/recipes/test_limits.py"
SETS = "tests/recipes/test_counters_and_sets.py"
ONCE = "tests/recipes/test_once.py"

RECIPES = (
    Mutation(
        "11-fence",
        "a grant changes the fence, so that a late copy of an older one changes nothing",
        "recipes/leases.py",
        "check, before, mutations=changes",
        "CheckType.NO_CHECK, None, mutations=changes",
        (LOCKS,),
    ),
    Mutation(
        "11-fencing-token",
        "every grant has a greater fencing token",
        "recipes/leases.py",
        "_number(before) + 1",
        "_number(before)",
        (LOCKS,),
    ),
    Mutation(
        "11-fence-after-loss",
        "the fence begins with the time, so that it grows even when its record was lost",
        "recipes/leases.py",
        "int(time() * 1000) if before is None",
        "1 if before is None",
        (LOCKS,),
    ),
    Mutation(
        "11-renewal-count",
        "a late copy of a renewal does not undo a newer one",
        "recipes/leases.py",
        "int(count) + 1, identity)",
        "int(count), identity)",
        (LOCKS,),
    ),
    Mutation(
        "11-earlier-end",
        "after a renewal whose reply was lost, the earlier end counts",
        "recipes/leases.py",
        "hold.until = min(hold.until, until)",
        "hold.until = until",
        (LOCKS,),
    ),
    Mutation(
        "11-own-token",
        "a release removes its own token only",
        "recipes/leases.py",
        'place, check, token + b" ", mutations=changes',
        "place, CheckType.EXIST, None, mutations=changes",
        (LOCKS,),
    ),
    Mutation(
        "11-clocks",
        "a lease uses the remaining time that the server reports",
        "recipes/leases.py",
        "hold.skew = max(0.0, hold.until - at_least)",
        "hold.skew = 0.0",
        (LOCKS,),
    ),
    Mutation(
        "11-killed-grant",
        "a caller killed during acquire leaves the lock free",
        "recipes/leases.py",
        "            if begun is not None:\n                self.abandon(token)\n            raise",
        "            raise",
        (LOCKS,),
    ),
    Mutation(
        "11-lost-hit",
        "a hit with a lost reply is counted",
        "recipes/limits.py",
        "cost, ttl=self._ttl, timeout=timeout)\n        if used",
        "0, ttl=self._ttl, timeout=timeout)\n        if used",
        (LIMITS,),
    ),
    Mutation(
        "11-own-row",
        "an addition with a lost reply recognizes its own row",
        "recipes/sets.py",
        "(doubt and done.raw_check_value == value)",
        "False",
        (SETS,),
    ),
    Mutation(
        "11-result-with-lease",
        "only the holder of the lease stores a result",
        "recipes/once.py",
        "return self._places.release(hold.token, hold.place, put=(_RESULT, value, ttl))",
        "self._places.table.set(self._places.hash_key, _RESULT, value, ttl=ttl)\n        return True",
        (ONCE,),
    ),
)
