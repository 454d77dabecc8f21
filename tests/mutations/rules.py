"""The mutations: at least one for each rule of what a correct client does, in the order of the rules' sections.

1 hash, partition, split; 2 meta servers; 3 connections; 4 which error means what; 5 storage status; 6 scans; 7 results;
8 what other clients got wrong; 9 defaults; 10 no acknowledged write is lost; 11 recipes;
12 authentication; 13 interruptions; 14 the compiled core.
"""

from __future__ import annotations

from .mutation import Mutation
from .rules_auth import AUTH
from .rules_calls import CALLS
from .rules_core import CORE
from .rules_interruptions import INTERRUPTIONS
from .rules_names import NAMES
from .rules_recipes import RECIPES
from .rules_rows import ROWS
from .rules_servers import SERVERS
from .rules_usual import USUAL_CALLS

MUTATIONS: tuple[Mutation, ...] = (
    *SERVERS,
    *NAMES,
    *CALLS,
    *USUAL_CALLS,
    *ROWS,
    *RECIPES,
    *AUTH,
    *INTERRUPTIONS,
    *CORE,
)
