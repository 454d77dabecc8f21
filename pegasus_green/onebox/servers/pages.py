"""The HTTP pages of meta and replica servers that operators' tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.replica import INACTIVE, Replica
from ..replication.tables import AVAILABLE, DROPPED, DROPPING, Partition, Table
from ..runtime.clock import local_time
from ..wire.http import Page, Query
from ..wire.server import Server

STATUS = {AVAILABLE: "AVAILABLE", DROPPING: "DROPPING", DROPPED: "DROPPED"}
METRIC_FIELDS = ("with_metric_fields", "types", "ids", "attributes", "metrics", "detail")


def compact(value: object) -> str:
    """Return JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


class Pages:
    """The pages of one server."""

    def __init__(self, box: Cluster, server: Server) -> None:
        """Describe the pages of a server of this kind."""
        self.box = box
        self.server = server

    def answer(self, query: Query) -> Page:
        """Return the page that a request asks for."""
        name = query.path.strip("/")
        if name == "version":
            return Page(200, compact({"Version": f"{self.box.release}.0", "GitCommit": "onebox"}))
        if name == "updateConfig":
            return self.update_config(query.fields)
        if name == "metrics":
            return self.metrics(query.fields)
        return self.own(name, query.fields) or Page(404, f'service not found for "{name}"')

    def own(self, _name: str, _fields: Mapping[str, str]) -> Page | None:
        """Return a page that only one kind of server has."""
        return None

    def update_config(self, fields: Mapping[str, str]) -> Page:
        """Change a setting of the onebox; real servers have other names here."""
        if len(fields) != 1:
            return Page(400, compact({"update_status": "ERR_INVALID_PARAMETERS: there should be exactly one config"}))
        [(name, text)] = fields.items()
        status = "ERR_OK"
        if name not in self.box.settings.__dataclass_fields__:
            status = f"ERR_OBJECT_NOT_FOUND: {name} is not found"
        else:
            try:
                self.box.settings.change_text(name, text)
            except ValueError as error:
                status = f"ERR_INVALID_PARAMETERS: {error}"
        return Page(200, compact({"update_status": status}))

    # ---------------------------------------------------------------------------------------------------------- metrics
    def metrics(self, fields: Mapping[str, str]) -> Page:
        """Tell figures of the server and its replicas, in the shape of a real server's."""
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
        """Return the entities that only one kind of server has."""
        return []


class ReplicaPages(Pages):
    """The pages of a replica server."""

    def __init__(self, box: Cluster, server: Node) -> None:
        """Describe the pages of a replica server."""
        super().__init__(box, server)
        self.node = server

    def entities(self) -> list[dict[str, Any]]:
        """Return an entity for each replica that serves."""
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
    """The pages of a meta server; those about the cluster are the leader's."""

    def own(self, name: str, fields: Mapping[str, str]) -> Page | None:
        """Return a page about the cluster."""
        pages = {
            "meta/app": self.table,
            "meta/apps": self.tables,
            "meta/cluster": self.cluster,
            "meta/nodes": self.nodes,
        }
        page = pages.get(name)
        if page is None:
            return None
        leader = self.box.leader
        if leader is None:
            return Page(404, "no meta server leads now")
        if leader is not self.server:
            return Page(307, "", f"http://{leader.public}/{name}")
        return page(fields)

    def table(self, fields: Mapping[str, str]) -> Page:
        """Tell about one table; with ``detail`` also about its partitions."""
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
            return Page(200, compact({"general": general}))
        replicas = {str(partition.index): self._route(table, partition) for partition in table.partitions}
        whole = [len(partition.members) >= table.replica_count for partition in table.partitions]
        orphans = sum(partition.primary is None for partition in table.partitions)
        healthy = {
            "fully_healthy_partition_count": str(sum(whole)),
            "unhealthy_partition_count": str(len(whole) - sum(whole)),
            "write_unhealthy_partition_count": str(orphans),
            "read_unhealthy_partition_count": str(orphans),
        }
        return Page(200, compact({"general": general, "replicas": replicas, "healthy": healthy}))

    @staticmethod
    def _route(table: Table, partition: Partition) -> dict[str, str]:
        return {
            "pidx": str(partition.index),
            "ballot": str(partition.ballot),
            "replica_count": f"{len(partition.members)}/{table.replica_count}",
            "primary": partition.primary.public if partition.primary is not None else "-",
            "secondaries": f"[{','.join(server.public for server in partition.secondaries)}]",
        }

    def tables(self, _fields: Mapping[str, str]) -> Page:
        """List the tables, dropped ones included."""
        self.box.forget_expired_tables()
        return Page(200, compact({"general_info": {str(table.app_id): self._row(table) for table in self.box.tables}}))

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
        """Tell about the cluster."""
        facts = self.box.facts()
        del facts["cluster_name"]
        return Page(200, compact(facts))

    def nodes(self, _fields: Mapping[str, str]) -> Page:
        """List the replica servers."""
        dead = self.box.known_dead
        details = {
            server.public: {"address": server.public, "status": "UNALIVE" if server in dead else "ALIVE"}
            for server in self.box.servers
        }
        summary = {
            "total_node_count": str(len(details)),
            "alive_node_count": str(len(details) - len(dead)),
            "unalive_node_count": str(len(dead)),
        }
        return Page(200, compact({"details": details, "summary": summary}))


def _entity(kind: str, name: str, attributes: dict[str, str], figures: Mapping[str, int]) -> dict[str, Any]:
    rows = [{"name": figure, "value": value} for figure, value in figures.items()]
    return {"type": kind, "id": name, "attributes": attributes, "metrics": rows}
