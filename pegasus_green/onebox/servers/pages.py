"""The HTTP pages of meta and replica servers that administrative tools read."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.replica import INACTIVE, Replica
from ..replication.tables import AVAILABLE, DROPPED, DROPPING, Partition, Table
from ..runtime.clock import local_time
from ..runtime.settings import Settings
from ..wire.http import Page, Query
from ..wire.server import Server
from .envs import KNOWN

STATUS = {AVAILABLE: "AVAILABLE", DROPPING: "DROPPING", DROPPED: "DROPPED"}
METRIC_FIELDS = ("with_metric_fields", "types", "ids", "attributes", "metrics", "detail")


def compact(value: object) -> str:
    """Return JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def told(value: object) -> Page:
    """Return a page with JSON in one line, like most pages of a real server."""
    return Page(200, f"{compact(value)}\n")


class Handler(NamedTuple):
    """The function of a page, and its line on the page that lists all pages."""

    answer: Callable[[Mapping[str, str]], Page]
    about: str


class Pages:
    """The pages of one server.

    Attributes:
        section: The heading of the settings in a server's configuration; the Go tool shows these sections.
    """

    section = ""

    def __init__(self, box: Cluster, server: Server) -> None:
        """Add the pages for this kind of server."""
        self.box = box
        self.server = server
        self._handlers = {
            "": Handler(self.calls, "Lists all supported calls"),
            "version": Handler(self.version, "Gets the server version."),
            "recentStartTime": Handler(self.start_time, "Gets the server start time."),
            "config": Handler(self.config, "get the details of a specified config"),
            "configs": Handler(self.configs, "list all configs"),
            "updateConfig": Handler(self.update_config, "ip:port/updateConfig?<key>=<value>"),
            "metrics": Handler(self.metrics, "Query the node metrics."),
            **self.own(),
        }

    def own(self) -> dict[str, Handler]:
        """Return the pages that only this kind of server has."""
        return {}

    def answer(self, query: Query) -> Page:
        """Return the page that a request asks for."""
        name = "/".join(filter(None, query.path.split("/")))
        handler = self._handlers.get(name)
        return Page(404, f'service not found for "{name}"') if handler is None else handler.answer(query.fields)

    def calls(self, _fields: Mapping[str, str]) -> Page:
        """List the pages."""
        return told({f"/{name}": handler.about for name, handler in sorted(self._handlers.items())})

    def version(self, _fields: Mapping[str, str]) -> Page:
        """Show the release."""
        return told({"Version": f"{self.box.release}.0", "GitCommit": "onebox"})

    def start_time(self, _fields: Mapping[str, str]) -> Page:
        """Show the start time of the server."""
        return told({"RecentStartTime": local_time(self.box.started)})

    # --------------------------------------------------------------------------------------------------- configuration
    def configs(self, fields: Mapping[str, str]) -> Page:
        """List the settings of the onebox. Real servers list other settings here."""
        if fields:
            return Page(400, "")
        return told({name: self._setting(name) for name in sorted(self.box.settings.__dataclass_fields__)})

    def config(self, fields: Mapping[str, str]) -> Page:
        """Show one setting."""
        if set(fields) - {"name"}:
            return Page(400, "")
        name = fields.get("name", "")
        if name not in self.box.settings.__dataclass_fields__:
            return Page(200, f"ERR_OBJECT_NOT_FOUND: {name} is not found")
        return told(self._setting(name))

    def _setting(self, name: str) -> dict[str, str]:
        value = getattr(self.box.settings, name)
        kind = "FV_BOOL" if isinstance(value, bool) else "FV_INT64" if isinstance(value, int) else "FV_DOUBLE"
        return {
            "name": name,
            "section": self.section,
            "type": kind,
            "tags": "flag_tag::FT_MUTABLE",
            "description": _ABOUT.get(name, ""),
            "value": json.dumps(value),
        }

    def update_config(self, fields: Mapping[str, str]) -> Page:
        """Change a setting."""
        if len(fields) != 1:
            problem = "ERR_INVALID_PARAMETERS: there should be exactly one config to be updated once"
            return told({"update_status": problem})
        [(name, text)] = fields.items()
        status = "ERR_OK"
        if name not in self.box.settings.__dataclass_fields__:
            status = f"ERR_OBJECT_NOT_FOUND: {name} is not found"
        else:
            try:
                self.box.settings.change_text(name, text)
            except ValueError as error:
                status = f"ERR_INVALID_PARAMETERS: {error}"
        return told({"update_status": status})

    # ---------------------------------------------------------------------------------------------------------- metrics
    def metrics(self, fields: Mapping[str, str]) -> Page:
        """Show metrics of the server and its replicas, in the format of a real server."""
        for field, value in fields.items():
            if field not in METRIC_FIELDS:
                return Page(400, json.dumps({"error_message": f"unknown field {field}={value}"}, indent=4))
        types, ids = self._wanted(fields, "types"), self._wanted(fields, "ids")
        names = self._wanted(fields, "metrics")
        entities = []
        for entity in [self._server_entity(), *self.entities()]:
            if (types and entity["type"] not in types) or (ids and entity["id"] not in ids):
                continue
            entity["metrics"] = [row for row in entity["metrics"] if not names or row["name"] in names]
            if entity["metrics"]:
                entities.append(entity)
        whole = {
            "cluster": "onebox",
            "role": self.server.kind,
            "host": self.box.advertise,
            "port": self.server.port,
            "timestamp_ns": int(self.box.clock() * 1e9),
            "entities": entities,
        }
        return Page(200, json.dumps(whole, indent=4))

    @staticmethod
    def _wanted(fields: Mapping[str, str], name: str) -> set[str]:
        return set(filter(None, fields.get(name, "").split(",")))

    def _server_entity(self) -> dict[str, Any]:
        figures = {"network_server_sessions": len(self.server.connections)}
        figures |= {f"requests.{name}": count for name, count in sorted(self.server.requests.items())}
        return _entity("server", self.server.kind, {}, figures)

    def entities(self) -> list[dict[str, Any]]:
        """Return the entities that only this kind of server has."""
        return []


class ReplicaPages(Pages):
    """The pages of a replica server."""

    section = "replication"

    def __init__(self, box: Cluster, server: Node) -> None:
        """Add the pages of a replica server."""
        super().__init__(box, server)
        self.node = server

    def entities(self) -> list[dict[str, Any]]:
        """Return an entity for each serving replica."""
        return [self._replica(replica) for replica in self.node.replicas.values() if replica.role is not INACTIVE]

    @staticmethod
    def _replica(replica: Replica) -> dict[str, Any]:
        app_id, index = replica.table.app_id, replica.index
        attributes = {"partition_id": str(index), "table_id": str(app_id)}
        figures = {
            "rdb_estimated_keys": len(replica.engine),
            "committed_decree": replica.applied,
            "open_scan_contexts": len(replica.engine.contexts),
        }
        return _entity("replica", f"replica@{app_id}.{index}", attributes, figures)


class MetaPages(Pages):
    """The pages of a meta server. The leader serves those about the cluster."""

    section = "meta_server"

    def own(self) -> dict[str, Handler]:
        """Return the pages about the cluster."""
        pages = {
            "meta/app": (self.table, "ip:port/meta/app?app_name=temp"),
            "meta/app_envs": (self.envs, "ip:port/meta/app_envs?name=temp"),
            "meta/apps": (self.tables, "ip:port/meta/apps"),
            "meta/cluster": (self.cluster, "ip:port/meta/cluster"),
            "meta/nodes": (self.nodes, "ip:port/meta/nodes"),
        }
        found = {name: Handler(self._by_leader(name, page), about) for name, (page, about) in pages.items()}
        if self.box.hosts:
            found["envs/list"] = Handler(self.known_envs, "List all available table environments.")
        return found

    def _by_leader(self, name: str, page: Callable[[Mapping[str, str]], Page]) -> Callable[[Mapping[str, str]], Page]:
        def answer(fields: Mapping[str, str]) -> Page:
            leader = self.box.leader
            if leader is None:
                return Page(404, "no meta server leads now")
            if leader is not self.server:
                rest = f"?{urlencode(fields)}" if fields else ""
                return Page(307, "", f"http://{leader.public}/{name}{rest}")
            return page(fields)

        return answer

    def known_envs(self, _fields: Mapping[str, str]) -> Page:
        """List the envs that tables can have."""
        envs = {
            name: {"limitation": env.limit, "sample": env.sample, "type": env.kind}
            for name, env in sorted(KNOWN.items())
        }
        return Page(200, json.dumps(envs, indent=2))

    def envs(self, fields: Mapping[str, str]) -> Page:
        """Show the envs of one table."""
        name = fields.get("name", "")
        if not name:
            return Page(400, "app name shouldn't be empty")
        table = self.box.tables.find(name)
        return told(dict(sorted(table.envs.items())) if table is not None else {})

    def table(self, fields: Mapping[str, str]) -> Page:
        """Show one table; with ``detail`` also its partitions."""
        if set(fields) - {"name", "detail"}:
            return Page(400, "")
        name = fields.get("name", "")
        table = self.box.tables.find(name)
        if table is None:
            return Page(404, f'table not found: "{name}"')
        general = {
            "app_name": table.name,
            "app_id": str(table.app_id),
            "partition_count": str(table.partition_count),
            "max_replica_count": str(table.replica_count),
        }
        if "detail" not in fields:
            return told({"general": general})
        replicas = {str(partition.index): self._route(table, partition) for partition in table.partitions}
        health = {f"{name}_partition_count": count for name, count in _health(table).items()}
        return told({"general": general, "replicas": replicas, "nodes": self._nodes_of(table), "healthy": health})

    @staticmethod
    def _nodes_of(table: Table) -> dict[str, dict[str, str]]:
        primaries = Counter(partition.primary.public for partition in table.partitions if partition.primary)
        secondaries = Counter(server.public for partition in table.partitions for server in partition.secondaries)
        rows = {node: (primaries[node], secondaries[node]) for node in sorted({*primaries, *secondaries})}
        rows["total"] = (primaries.total(), secondaries.total())
        return {
            node: {"node": node, "primary": str(first), "secondary": str(others), "total": str(first + others)}
            for node, (first, others) in rows.items()
        }

    @staticmethod
    def _route(table: Table, partition: Partition) -> dict[str, str]:
        return {
            "pidx": str(partition.index),
            "ballot": str(partition.ballot),
            "replica_count": f"{len(partition.members)}/{table.replica_count}",
            "primary": partition.primary.public if partition.primary is not None else "-",
            "secondaries": f"[{','.join(server.public for server in partition.secondaries)}]",
        }

    def tables(self, fields: Mapping[str, str]) -> Page:
        """List the existing tables; with ``detail`` also their health."""
        if set(fields) - {"detail"}:
            return Page(400, "")
        there = [table for table in self.box.tables if table.status == AVAILABLE]
        page: dict[str, Any] = {"general_info": {str(table.app_id): self._row(table) for table in there}}
        summary = {"total_app_count": len(there)}
        if "detail" in fields and there:
            health = {table: _health(table) for table in there}
            page["healthy_info"] = {
                str(table.app_id): {
                    "app_id": str(table.app_id),
                    "app_name": table.name,
                    "partition_count": str(table.partition_count),
                    **found,
                }
                for table, found in health.items()
            }
            summary["fully_healthy_app_count"] = sum(found["unhealthy"] == "0" for found in health.values())
            summary["unhealthy_app_count"] = len(there) - summary["fully_healthy_app_count"]
            for kind in ("write_unhealthy", "read_unhealthy"):
                summary[f"{kind}_app_count"] = sum(found[kind] != "0" for found in health.values())
        page["summary"] = {name: str(count) for name, count in summary.items()}
        return told(page)

    @staticmethod
    def _row(table: Table) -> dict[str, str]:
        def moment(seconds: float) -> str:
            return f"{local_time(seconds)}.000" if seconds else "-"

        return {
            "app_id": str(table.app_id),
            "status": STATUS.get(table.status, str(table.status)),
            "app_name": table.name,
            "app_type": table.app_type,
            "partition_count": str(table.partition_count),
            "replica_count": str(table.replica_count),
            "is_stateful": str(table.is_stateful).lower(),
            "create_time": moment(table.created),
            "drop_time": moment(table.dropped),
            "drop_expire": moment(table.expires),
            "envs_count": str(len(table.envs)),
        }

    def cluster(self, _fields: Mapping[str, str]) -> Page:
        """Show facts about the cluster."""
        facts = self.box.facts()
        del facts["cluster_name"]
        return told(facts)

    def nodes(self, fields: Mapping[str, str]) -> Page:
        """List the replica servers; with ``detail`` also their numbers of replicas."""
        if set(fields) - {"detail"}:
            return Page(400, "")
        dead = self.box.known_dead
        details = {
            server.public: {"address": server.public, "status": "UNALIVE" if server in dead else "ALIVE"}
            for server in self.box.servers
        }
        if "detail" in fields:
            partitions = [
                partition for table in self.box.tables if table.status == AVAILABLE for partition in table.partitions
            ]
            primaries = Counter(partition.primary.public for partition in partitions if partition.primary)
            secondaries = Counter(server.public for partition in partitions for server in partition.secondaries)
            for node, row in details.items():
                row["replica_count"] = str(primaries[node] + secondaries[node])
                row["primary_count"], row["secondary_count"] = str(primaries[node]), str(secondaries[node])
        summary = {
            "total_node_count": str(len(details)),
            "alive_node_count": str(len(details) - len(dead)),
            "unalive_node_count": str(len(dead)),
        }
        return told({"details": details, "summary": summary})


def _health(table: Table) -> dict[str, str]:
    """Return the numbers of partitions that have all replicas, lack some, are unwritable and are unreadable."""
    led = [partition for partition in table.partitions if partition.primary is not None]
    fully = sum(len(partition.members) >= table.replica_count for partition in led)
    alone = sum(len(partition.members) < min(2, table.replica_count) for partition in led)
    orphans = table.partition_count - len(led)
    counts = {
        "fully_healthy": fully,
        "unhealthy": table.partition_count - fully,
        "write_unhealthy": orphans + alone,
        "read_unhealthy": orphans,
    }
    return {name: str(count) for name, count in counts.items()}


def _about_settings() -> dict[str, str]:
    """Return the description of each setting, from the docstring of Settings."""
    text = inspect.cleandoc(Settings.__doc__ or "")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(about.split()) for name, about in found}


_ABOUT = _about_settings()


def _entity(kind: str, name: str, attributes: dict[str, str], figures: Mapping[str, int]) -> dict[str, Any]:
    rows = [{"name": figure, "value": value} for figure, value in figures.items()]
    return {"type": kind, "id": name, "attributes": attributes, "metrics": rows}
