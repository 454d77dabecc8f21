"""Proposals and diagnosis: administrative requests to a meta server about single partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...protocol import codes, meta, remote
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from ..replication.cluster import Cluster
from ..replication.node import Node
from ..replication.tables import AVAILABLE, Partition, Table, raw_address

# Actions of a proposal on its node.
ASSIGN_PRIMARY, UPGRADE_TO_PRIMARY, ADD_SECONDARY = 1, 2, 3
DOWNGRADE_TO_SECONDARY, DOWNGRADE_TO_INACTIVE, REMOVE, ADD_SECONDARY_FOR_LB = 5, 6, 7, 8
# App id, partition index.
Gpid = tuple[int, int]


class Proposals:
    """Handlers that return the response to a request."""

    def __init__(self, box: Cluster) -> None:
        """Store the cluster."""
        self.box = box
        self._pending: set[Gpid] = set()

    def table(self) -> dict[Rpc, Callable[[Any], Message]]:
        """Return the handlers by RPC."""
        return {rpcs.PROPOSE_BALANCER: self.propose, rpcs.DIAGNOSE: self.diagnose}

    # ------------------------------------------------------------------------------------------------------- proposals
    def propose(self, request: remote.BalancerRequest) -> remote.BalancerResponse:
        """Accept the steps for a partition. They are done after a delay; impossible steps are skipped."""
        app_id, index = gpid = meta.split_gpid(request.gpid)
        table = self.box.tables.by_id.get(app_id)
        if table is None or table.status != AVAILABLE or index >= table.partition_count:
            return remote.BalancerResponse(codes.ERR_INVALID_PARAMETERS)
        partition = table.partitions[index]
        lacks_target = any(not (action.target or action.hp_target) for action in request.action_list)
        if not request.force and (gpid in self._pending or (lacks_target and partition.primary is None)):
            return remote.BalancerResponse(codes.ERR_INVALID_PARAMETERS)
        self._pending.add(gpid)

        def work() -> None:
            self._pending.discard(gpid)
            for action in request.action_list:
                self._step(table, partition, action)

        self.box.later(self.box.settings.assign_delay, work)
        return remote.BalancerResponse()

    def _step(self, table: Table, partition: Partition, action: remote.ProposalAction) -> None:
        node, groups = self._node(action), self.box.groups
        if node is None or table.status != AVAILABLE or partition not in table.partitions:
            return
        if action.type in (ADD_SECONDARY, ADD_SECONDARY_FOR_LB):
            groups.add_secondary(table, partition, node)
        elif action.type == ASSIGN_PRIMARY:
            groups.revive(table, partition)
        elif action.type == UPGRADE_TO_PRIMARY:
            groups.promote(table, partition, node)
        elif action.type == DOWNGRADE_TO_SECONDARY:
            groups.demote(table, partition, node)
        elif action.type in (DOWNGRADE_TO_INACTIVE, REMOVE):
            groups.drop(table, partition, node)

    def _node(self, action: remote.ProposalAction) -> Node | None:
        for server in self.box.servers:
            if action.node == raw_address(server) or (action.hp_node and action.hp_node == server.public):
                return server
        return None

    # ------------------------------------------------------------------------------------------------------- diagnosis
    def diagnose(self, request: remote.DiagnoseRequest) -> remote.DiagnoseResponse:
        """List the partitions that have lost all replicas: of all tables, of one table, or one partition."""
        app_id, index = meta.split_gpid(request.pid)
        everything = 0xFFFFFFFF
        lost = [
            self._lost(table, partition)
            for table in self.box.tables.served()
            for partition in table.partitions
            if partition.last_members and partition.primary is None
            if app_id == everything or (app_id == table.app_id and index in (everything, partition.index))
        ]
        return remote.DiagnoseResponse(partitions=lost)

    def _lost(self, table: Table, partition: Partition) -> remote.LostPartition:
        nodes = []
        for server in partition.last_members:
            replica = server.replicas.get((table.app_id, partition.index))
            node = remote.DroppedNode(raw_address(server), is_alive=server.reachable, is_collected=server.reachable)
            node.ballot = partition.ballot if replica is not None else -1
            if replica is not None:
                node.last_committed_decree, node.last_prepared_decree = replica.applied, replica.logged
            if self.box.hosts:
                node.hp_node = server.public
            nodes.append(node)
        config = table.configuration(partition, hosts=self.box.hosts)
        return remote.LostPartition(config, nodes, "all replicas are lost")
