"""Settings of an embedded cluster: delays and limits. The values of a real cluster are in parentheses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The releases whose protocol is served.
RELEASES = ("2.5", "2.6")
# Limit for tables that are created together. During the creation nothing else runs, not even signal handlers: it takes
# half a second with this number, 1.6 s with 10,000 and more than 16 s with 200,000.
MAX_PARTITIONS = 4096


def check_release(release: str) -> None:
    """Check that a release is supported.

    Raises:
        ValueError: It is not one of RELEASES.
    """
    if release not in RELEASES:
        raise ValueError(f"release must be one of {', '.join(RELEASES)}, not {release!r}")


def check_partitions(tables: Mapping[str, int]) -> None:
    """Check that the creation of tables does not take too long.

    Raises:
        ValueError: A table has no partitions, or all tables together have too many.
    """
    for name, count in tables.items():
        if count < 1:
            raise ValueError(f"table {name!r} must have at least 1 partition, not {count}")
    total = sum(tables.values())
    if total > MAX_PARTITIONS:
        raise ValueError(
            f"tables created together can have at most {MAX_PARTITIONS} partitions, not {total}: {', '.join(tables)}"
        )


def parse_ports(ports: str | Sequence[object]) -> list[int]:
    """Return the ports in "34601-34603" or "34601,34602" or in a sequence of numbers.

    Raises:
        ValueError: An item is not a port, or a port occurs twice.
    """
    found: list[int] = []
    for item in ports.split(",") if isinstance(ports, str) else ports:
        first, dash, last = str(item).strip().partition("-")
        words = (first, last) if dash else (first, first)
        if isinstance(item, bool) or not all(word.isdecimal() and int(word) <= 65535 for word in words):
            raise ValueError(f"ports must be numbers from 0 to 65535, like 34601-34603 or 34601,34602, not {ports!r}")
        found.extend(range(int(words[0]), int(words[1]) + 1))
    fixed = [port for port in found if port]
    if not found or len(set(fixed)) < len(fixed):
        raise ValueError(f"there must be at least one port, and each port only once, not {ports!r}")
    return found


@dataclass
class Settings:
    """Delays in seconds, and limits. ``Onebox.configure`` changes them while the cluster runs.

    The numbers in parentheses are those of a real cluster.

    Attributes:
        failover_delay: From the death or silence of a replica server until its primaries are replaced (real: 20 to 24).
        failover_gap: How long a partition then has no primary (real: < 0.3).
        removal_delay: Until a dead or silent server is removed as secondary; writes of its partitions wait until then
            (real: 1 to 3). None: a tenth of failover_delay.
        rejoin_delay: From the return of a server until it has learned its partitions again.
        heal_delay: Until another server without a replica replaces a dead server. None: ten times failover_delay.
        assign_delay: From the answer to "create" until the primaries exist, and then until all replicas exist
            (real: 2 and 20).
        env_delay: Until new table envs reach the replica servers, each at its own time (real: up to 30).
        group_check_interval: Interval of the group check. A secondary applies a write when the next write comes, or at
            the group check (real: 100).
        meta_failover_delay: From the death or silence of the leader of the meta servers until there is a new leader
            (real: 13).
        meta_loading: How long a new leader answers ERR_SERVICE_NOT_ACTIVE.
        split_seconds: From the start of a partition split to its first child, and from child to child (real: 8 to 13).
        split_window: How long a parent answers ERR_SPLITTING before its child is ready.
        split_filter_delay: How long scans of the table's partitions still return the rows of other partitions, after a
            child is ready (real: 5 to 30).
        split_control_delay: Until parents agree to pause or cancel (real: 5).
        drop_delay: How long the replica servers still serve a table that was dropped (real: until they learn of it).
        rename_delay: How long requests with the old name still reach a renamed table, also requests to rename it again
            (real: < 1).
        compaction_seconds: From the start of a manual compaction until all servers have finished it, one after the
            other (real: 10 and more). 0: at once.
        min_replicas: Minimum number of live replicas for writes to a partition. None: a majority of the table's count,
            or 1 if the count is 2.
        max_pending_writes: Maximum number of writes of a partition that wait for a silent secondary, before
            ERR_CAPACITY_EXCEEDED.
        max_write_bytes: Largest body of a write request in bytes; 0: no limit.
        max_connections: Maximum number of connections to a server; further ones are accepted and closed. 0: no limit.
        strict: Record as a client bug every request whose partition hash does not fit its key, not only those that
            crash a real server.
        keep_executions: How many bytes of executed writes ``executions`` remembers; for reads, an eighth of this
            number.
    """

    failover_delay: float = 0.3
    failover_gap: float = 0.0
    removal_delay: float | None = None
    rejoin_delay: float = 0.1
    heal_delay: float | None = None
    assign_delay: float = 0.05
    env_delay: float = 0.0
    group_check_interval: float = 5.0
    meta_failover_delay: float = 0.3
    meta_loading: float = 0.05
    split_seconds: float = 0.3
    split_window: float = 0.1
    split_filter_delay: float = 0.0
    split_control_delay: float = 0.1
    drop_delay: float = 0.0
    rename_delay: float = 0.0
    compaction_seconds: float = 0.1
    min_replicas: int | None = None
    max_pending_writes: int = 1000
    max_write_bytes: int = 1024 * 1024
    max_connections: int = 0
    strict: bool = False
    keep_executions: int = 128 * 1024 * 1024

    @property
    def removal(self) -> float:
        """The effective removal delay."""
        return self.failover_delay / 10 if self.removal_delay is None else self.removal_delay

    @property
    def heal(self) -> float:
        """The effective heal delay."""
        return self.failover_delay * 10 if self.heal_delay is None else self.heal_delay

    def change(self, **values: object) -> None:
        """Change settings.

        Args:
            **values: New values by name.

        Raises:
            TypeError: There is no such setting.
        """
        for name, value in values.items():
            if name not in self.__dataclass_fields__:
                raise TypeError(f"unknown setting {name!r}; known: {', '.join(self.__dataclass_fields__)}")
            setattr(self, name, value)

    def change_text(self, name: str, text: str) -> None:
        """Change a setting from a text such as "0.5", "true" or "null".

        Args:
            name: Name of the setting.
            text: The new value, as in JSON.

        Raises:
            TypeError: There is no such setting.
            ValueError: The value has a wrong type.
        """
        try:
            value = json.loads(text)
        except ValueError:
            value = ""
        check_value(type(self), name, value, text)
        self.change(**{name: value})


def check_value(kind: type, name: str, value: object, text: str) -> None:
    """Check that a value has the type of a setting or limit.

    Raises:
        TypeError: There is no such setting.
        ValueError: The value has a wrong type; the message quotes the text.
    """
    fields = kind.__dict__["__dataclass_fields__"]
    if name not in fields:
        raise TypeError(f"unknown name {name!r}; known: {', '.join(fields)}")
    default = fields[name].default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif default is None:
        fits, wanted = is_number or value is None, "null or a number from 0 on"
    else:
        fits, wanted = is_number, "a number from 0 on"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {text!r}")
