"""A meta server: leader or follower, routes, tables and nodes. Table envs and splits are in ``admin``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import ProtocolError
from ...protocol import codes, meta
from ...protocol import rpc as rpcs
from ...protocol.message import Message
from ...protocol.rpc import Rpc
from ..replication.cluster import FREEZED, Cluster
from ..replication.tables import AVAILABLE, CREATING, DROPPED, DROPPING, RECALLING, Table, raw_address
from ..runtime.settings import MAX_PARTITIONS
from ..wire.connection import Connection
from ..wire.frames import Call, ok_reply
from ..wire.http import Page, Query
from ..wire.server import Server
from .admin import Admin
from .commands import Commands
from .envs import ROCKSDB_OPTIONS, check_env
from .jobs import Jobs
from .negotiation import Security, negotiate
from .pages import MetaPages
from .proposals import Proposals

ACTIVE, LOADING, RECOVERING = "active", "loading", "recovering"
# Unknown to releases up to 2.5.
SINCE_26 = (rpcs.GET_ATOMIC_IDEMPOTENT, rpcs.SET_ATOMIC_IDEMPOTENT)
MAX_REPLICAS = 5
DEFAULT_RESERVE = 604800
ALIVE, UNALIVE = 1, 2
MATCH_ALL, MATCH_EXACT, MATCH_ANYWHERE, MATCH_PREFIX, MATCH_POSTFIX = range(1, 6)
MATCHES: dict[int, Callable[[str, str], bool]] = {
    MATCH_ALL: lambda _name, _pattern: True,
    MATCH_EXACT: lambda name, pattern: name == pattern,
    MATCH_ANYWHERE: lambda name, pattern: pattern in name,
    MATCH_PREFIX: lambda name, pattern: name.startswith(pattern),
    MATCH_POSTFIX: lambda name, pattern: name.endswith(pattern),
}


class MetaServer(Server):
    """One meta server. Its data is that of the cluster, whichever server is the leader.

    Attributes:
        state: The state of a leader: "active", "loading" or "recovering".
        security: The permissions of users; None: every user may do everything.
    """

    kind = "meta"
    box: Cluster

    def __init__(self, box: Cluster, index: int, host: str, port: int) -> None:
        """Describe a meta server."""
        super().__init__(box, box.faults, index, host, port)
        self.state = ACTIVE
        self.security: Security | None = None
        self.commands = Commands(box, self)
        self.pages = MetaPages(box, self)
        handlers = (_Handlers(box), Admin(box), Proposals(box), Jobs(box))
        self._handlers: dict[Rpc, Callable[[Any], Message]] = {}
        for part in handlers:
            self._handlers |= part.table()

    def on_garbage(self, connection: Connection, why: str) -> None:
        """Record bytes that are not a request; as a client's fault if they would crash a real server."""
        super().on_garbage(connection, why)
        if "truncated" in why:
            self.box.client_bug(f"a request whose message is truncated ({why})")

    def handle(self, call: Call) -> None:
        """Answer a request at once."""
        self.count(call)
        if self.faults and self.injector.request(self, call):
            return
        self.dispatch(call)

    def dispatch(self, call: Call) -> None:
        """Serve a request that no fault has taken."""
        rpc = call.rpc
        if rpc is rpcs.NEGOTIATION:
            negotiate(self, call)
            return
        if rpc is rpcs.CLI_CALL and call.app_id <= 0:
            self._command(call)
            return
        if rpc is not None and call.app_id > 0:
            self.box.client_bug(f"{call.name} with app_id {call.app_id} sent to a meta server")
        if rpc is None or rpc not in self._handlers or (not self.box.hosts and rpc in SINCE_26):
            if rpc is not rpcs.CLEAR_SCANNER:
                self.reject(call, codes.ERR_HANDLER_NOT_FOUND)
            return
        try:
            request = call.argument()
        except ProtocolError as error:
            self.box.client_bug(f"{call.name} with an argument that cannot be decoded ({error})")
            self.reject(call, codes.ERR_INVALID_DATA)
            return
        frame, keeper = ok_reply(rpc, call.seqid, self._answer(call, rpc, request)), self.box.keeper
        if keeper is None or rpc is rpcs.QUERY_CFG:
            self.send(call, frame)
        else:
            # Answer after the change is stored: an answered change survives the end of this process.
            self.box.save()
            keeper.after(lambda _kept: self.send(call, frame))

    def page(self, query: Query) -> Page:
        """Answer an HTTP request."""
        return self.pages.answer(query)

    def _command(self, call: Call) -> None:
        try:
            frame = self.commands.answer(call)
        except ProtocolError as error:
            self.box.client_bug(f"{call.name} with an argument that cannot be decoded ({error})")
            self.reject(call, codes.ERR_INVALID_DATA)
            return
        self.send(call, frame)

    def _answer(self, call: Call, rpc: Rpc, request: Any) -> bytes:
        refusal = self._refusal(rpc)
        if refusal is not None:
            return refusal
        if self.security is not None and not self.security.may_ask_meta(call):
            assert rpc.response is not None
            response: Any = rpc.response()
            response.err = codes.ERR_ACL_DENY
            return self._without_result(response)
        if rpc is rpcs.QUERY_CFG and not request.partition_indices:
            table = self.box.tables.resolve(request.app_name, self.box.clock())
            if table is not None and table.status == AVAILABLE:
                return self._all_routes(table, request)
        return self._handlers[rpc](request).encode()

    def _all_routes(self, table: Table, request: Any) -> bytes:
        # Many clients may ask for the same routes at the same time, so they are encoded once per change.
        routes = table.routes.get(())
        if routes is None:
            routes = table.routes[()] = self._handlers[rpcs.QUERY_CFG](request).encode()
        return routes

    def _refusal(self, rpc: Rpc) -> bytes | None:
        assert rpc.response is not None
        response: Any = rpc.response()
        leader = self.box.leader
        if leader is self:
            if self.state == ACTIVE:
                return None
            response.err = codes.ERR_SERVICE_NOT_ACTIVE if self.state == LOADING else codes.ERR_UNDER_RECOVERY
            return self._without_result(response)
        response.err = codes.ERR_FORWARD_TO_OTHERS
        if rpc is rpcs.QUERY_CFG and leader is not None and self.box.leader_is_known:
            route = meta.PartitionConfiguration(primary=raw_address(leader))
            if self.box.hosts:
                route.hp_primary = leader.public
            response.partitions = [route]
        return self._without_result(response)

    def _without_result(self, response: Any) -> bytes:
        if isinstance(response, meta.RecallAppResponse):
            response.info = no_info(self.box)
        return bytes(response.encode())


def no_info(box: Cluster) -> meta.AppInfo:
    """Return the entry for a table that does not exist: fields with defaults are sent in any case."""
    return meta.AppInfo(atomic_idempotent=False if box.hosts else None)


class _Handlers:
    """The RPCs for tables and nodes; each handler returns the response to a request."""

    def __init__(self, box: Cluster) -> None:
        self.box = box

    def table(self) -> dict[Rpc, Callable[[Any], Message]]:
        """Return the handlers by RPC."""
        return {
            rpcs.QUERY_CFG: self.query_cfg,
            rpcs.CREATE_APP: self.create,
            rpcs.DROP_APP: self.drop,
            rpcs.RECALL_APP: self.recall,
            rpcs.RENAME_APP: self.rename,
            rpcs.LIST_APPS: self.list_apps,
            rpcs.LIST_NODES: self.list_nodes,
            rpcs.CLUSTER_INFO: self.cluster_info,
            rpcs.CONTROL_META: self.control,
        }

    def query_cfg(self, request: meta.QueryCfgRequest) -> meta.QueryCfgResponse:
        """Return the routes of a table."""
        table = self.box.tables.resolve(request.app_name, self.box.clock())
        if table is None:
            return meta.QueryCfgResponse(err=codes.ERR_OBJECT_NOT_FOUND)
        busy = busy_error(table)
        if busy is not None:
            return meta.QueryCfgResponse(err=busy)
        wanted = [index for index in request.partition_indices if 0 <= index < table.partition_count]
        partitions = [table.partitions[index] for index in wanted] or table.partitions
        return meta.QueryCfgResponse(
            app_id=table.app_id,
            partition_count=table.partition_count,
            is_stateful=table.is_stateful,
            partitions=[table.configuration(partition, hosts=self.box.hosts) for partition in partitions],
        )

    def create(self, request: meta.CreateAppRequest) -> meta.CreateAppResponse:
        """Create a table. Its replicas are created a little later."""
        options, box = request.options, self.box
        live = len(box.servers) - len(box.known_dead)
        error = None
        if box.function_level <= FREEZED or box.is_frozen:
            error = codes.ERR_STATE_FREEZED
        elif (
            not 0 < options.partition_count <= MAX_PARTITIONS
            or not 1 <= options.replica_count <= min(MAX_REPLICAS, live)
            or any(name in ROCKSDB_OPTIONS and check_env(name, value) for name, value in options.envs.items())
        ):
            error = codes.ERR_INVALID_PARAMETERS
        if error is not None:
            return meta.CreateAppResponse(err=error)
        table = box.tables.find(request.app_name)
        if table is not None:
            return self._create_again(table, options)
        if options.envs.get("default_ttl", "").lstrip("-").isdecimal():
            box.client_bug(f"create of {request.app_name!r} with env default_ttl; every replica server crashes")
            return meta.CreateAppResponse(err=codes.ERR_INVALID_PARAMETERS)
        table = box.add_table(request.app_name, options.partition_count, options.replica_count, options.envs)
        table.app_type, table.is_stateful = options.app_type, options.is_stateful
        table.atomic_idempotent = bool(options.atomic_idempotent) and box.hosts
        box.groups.assign_later(table)
        return meta.CreateAppResponse(appid=table.app_id)

    def _create_again(self, table: Table, options: meta.CreateAppOptions) -> meta.CreateAppResponse:
        busy = busy_error(table)
        if busy is not None:
            return meta.CreateAppResponse(err=busy)
        if not options.success_if_exist:
            return meta.CreateAppResponse(err=codes.ERR_APP_EXIST)
        wanted = (options.partition_count, options.app_type, options.envs, options.is_stateful, options.replica_count)
        if wanted != (table.partition_count, table.app_type, table.envs, table.is_stateful, table.replica_count):
            return meta.CreateAppResponse(err=codes.ERR_INVALID_PARAMETERS)
        return meta.CreateAppResponse(appid=table.app_id)

    def drop(self, request: meta.DropAppRequest) -> meta.DropAppResponse:
        """Drop a table. Its data is kept for the reserve time."""
        table = self.box.tables.find(request.app_name)
        if table is None:
            error = codes.ERR_OK if request.options.success_if_not_exist else codes.ERR_APP_NOT_EXIST
            return meta.DropAppResponse(err=error)
        if table.split is not None:
            return meta.DropAppResponse(err=codes.ERR_SPLITTING)
        busy = busy_error(table)
        if busy is not None:
            return meta.DropAppResponse(err=busy)
        reserve = request.options.reserve_seconds
        self.box.remove_table(table, reserve if reserve is not None and reserve > 0 else DEFAULT_RESERVE)
        return meta.DropAppResponse()

    def recall(self, request: meta.RecallAppRequest) -> meta.RecallAppResponse:
        """Recall a dropped table."""
        box = self.box
        table = box.tables.by_id.get(request.app_id)
        if table is None or (table.status == DROPPED and table.expires <= box.clock()):
            return meta.RecallAppResponse(err=codes.ERR_APP_NOT_EXIST, info=no_info(box))
        if table.status != DROPPED:
            return meta.RecallAppResponse(err=busy_error(table) or codes.ERR_APP_EXIST, info=no_info(box))
        name = request.new_app_name or table.name
        if box.tables.find(name) is not None:
            return meta.RecallAppResponse(err=codes.ERR_INVALID_PARAMETERS, info=no_info(box))
        if not table.served:
            box.client_bug(f"recall of {table!r}, dropped before its replicas existed; a replica server crashes")
            return meta.RecallAppResponse(err=codes.ERR_INVALID_PARAMETERS, info=no_info(box))
        box.restore_table(table, name)
        return meta.RecallAppResponse(info=table.info(hosts=box.hosts))

    def rename(self, request: meta.RenameAppRequest) -> meta.HintResponse:
        """Rename a table."""
        box = self.box
        table = box.tables.resolve(request.old_app_name, box.clock())
        if table is None:
            return meta.HintResponse(codes.ERR_APP_NOT_EXIST, f"ERROR: app({request.old_app_name}) not exist!")
        if box.tables.find(request.new_app_name) is not None:
            return meta.HintResponse(codes.ERR_INVALID_PARAMETERS, f"ERROR: app({request.new_app_name}) already exist!")
        busy = busy_error(table)
        if busy is not None:
            return meta.HintResponse(busy)
        box.tables.rename(table, request.new_app_name, box.clock() + box.settings.rename_delay)
        box.changed()
        return meta.HintResponse()

    def list_apps(self, request: meta.ListAppsRequest) -> meta.ListAppsResponse:
        """List tables by status and, after 2.5, by name."""
        box = self.box
        response = meta.ListAppsResponse()
        matches, pattern = MATCHES[MATCH_ALL], request.app_name_pattern
        if box.hosts and pattern is not None and request.match_type is not None:
            found = MATCHES.get(request.match_type)
            if found is None:
                response.err = codes.ERR_NOT_IMPLEMENTED
                response.hint_message = f"match_type {request.match_type} is not supported"
                return response
            matches = found if pattern else matches
        box.forget_expired_tables()
        for table in box.tables:
            if request.status in (0, table.status) and matches(table.name, pattern or ""):
                response.infos.append(table.info(hosts=box.hosts))
        return response

    def list_nodes(self, request: meta.ListNodesRequest) -> meta.ListNodesResponse:
        """List the replica servers, first those that answer."""
        box, infos = self.box, []
        for server in box.servers:
            status = ALIVE if server not in box.known_dead else UNALIVE
            if request.status in (0, status):
                node = meta.NodeInfo(status=status, node=raw_address(server))
                if box.hosts:
                    node.hp_node = server.public
                infos.append(node)
        return meta.ListNodesResponse(infos=sorted(infos, key=lambda info: info.status))

    def cluster_info(self, _request: meta.ClusterInfoRequest) -> meta.ClusterInfoResponse:
        """Return facts about the cluster."""
        facts = self.box.facts()
        return meta.ClusterInfoResponse(keys=list(facts), values=list(facts.values()))

    def control(self, request: meta.MetaControlRequest) -> meta.MetaControlResponse:
        """Set the function level. Like a real server, it accepts any number."""
        return meta.MetaControlResponse(old_level=self.box.set_level(request.level))


def busy_error(table: Table) -> str | None:
    """Return the error for a table that is being created or dropped."""
    if table.status in (CREATING, RECALLING):
        return codes.ERR_BUSY_CREATING
    return codes.ERR_BUSY_DROPPING if table.status == DROPPING else None
