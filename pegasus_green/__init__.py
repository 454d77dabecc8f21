"""The gevent client for Apache Pegasus.

Importing the package has two side effects: it adds a NullHandler to its logger, and it registers an at-fork hook
(``transport/fork.py``). The hook does nothing before there are connections. The import does not load gevent. Each
public name is loaded when it is first used.
"""

from __future__ import annotations

import logging as _logging
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .transport import fork as _fork  # noqa: F401 - registers the at-fork hook

if TYPE_CHECKING:
    from . import codecs, errors, keys
    from .accelerate import accelerated
    from .admin import Admin
    from .admin.model import (
        Backup,
        BalanceKind,
        BulkLoad,
        BulkLoadStatus,
        DiskInfo,
        HotKeyAction,
        HotKeyKind,
        MetaLevel,
        NodeInfo,
        PartitionInfo,
        ProposalKind,
        SplitState,
        SplitStatus,
        TableInfo,
        TableStatus,
    )
    from .auth import Kerberos
    from .client import Client, Table, connect, open_table
    from .cluster.info import CallInfo
    from .codecs import Codec, JsonCodec, Utf8Codec, ZstdCodec
    from .errors import (
        AccessDenied,
        AuthenticationFailed,
        Busy,
        ClientClosed,
        CodecError,
        ConnectFailed,
        ConnectionLost,
        CountUnknown,
        ForkedConnection,
        FrameTooLarge,
        Incomplete,
        IntegerOverflow,
        InvalidArgument,
        MetaError,
        MetaUnreachable,
        NotAnInteger,
        NotEnoughReplicas,
        NotServing,
        PegasusError,
        ProtocolError,
        RequestTimeout,
        ServerError,
        Splitting,
        StorageError,
        TableError,
        TableExists,
        TableNotFound,
        TableUnavailable,
        TransportError,
        WriteRejected,
        WrongThread,
    )
    from .events import Listener
    from .log import configure_logging
    from .mapping import HashMapping
    from .model import CheckType, Filter, FilterType
    from .operations.asynchronous import Handle
    from .operations.atomic import Mutations
    from .options import ClientOptions, HedgePolicy
    from .pegasus import Pegasus, PegasusScanner
    from .pegasus_types import MultiGetOptions, ScanOptions, error_types, filter_type
    from .results import CheckResult, HashRow, HashRowWithTtl, MultiGetResult, Row, RowWithTtl, SortKeys
    from .retry import RetryPolicy
    from .scanner import Scanner
    from .shared import shared_client

# The module of each public name.
_NAMES = {
    "accelerate": "accelerated",
    "admin": "Admin",
    "admin.model": (
        "Backup BalanceKind BulkLoad BulkLoadStatus DiskInfo HotKeyAction HotKeyKind MetaLevel NodeInfo PartitionInfo"
        " ProposalKind SplitState SplitStatus TableInfo TableStatus"
    ),
    "auth": "Kerberos",
    "client": "Client Table connect open_table",
    "cluster.info": "CallInfo",
    "codecs": "Codec JsonCodec Utf8Codec ZstdCodec",
    "errors": (
        "AccessDenied AuthenticationFailed Busy ClientClosed CodecError ConnectFailed ConnectionLost CountUnknown "
        "ForkedConnection FrameTooLarge Incomplete IntegerOverflow InvalidArgument MetaError MetaUnreachable "
        "NotAnInteger NotEnoughReplicas NotServing PegasusError ProtocolError RequestTimeout ServerError Splitting "
        "StorageError TableError TableExists TableNotFound TableUnavailable TransportError WriteRejected "
        "WrongThread"
    ),
    "events": "Listener",
    "log": "configure_logging",
    "mapping": "HashMapping",
    "model": "CheckType Filter FilterType",
    "operations.asynchronous": "Handle",
    "operations.atomic": "Mutations",
    "options": "ClientOptions HedgePolicy",
    "pegasus": "Pegasus PegasusScanner",
    "pegasus_types": "MultiGetOptions ScanOptions error_types filter_type",
    "results": "CheckResult HashRow HashRowWithTtl MultiGetResult Row RowWithTtl SortKeys",
    "retry": "RetryPolicy",
    "scanner": "Scanner",
    "shared": "shared_client",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
_SUBMODULES = ("codecs", "errors", "keys")

__all__ = [
    "AccessDenied",
    "Admin",
    "AuthenticationFailed",
    "Backup",
    "BalanceKind",
    "BulkLoad",
    "BulkLoadStatus",
    "Busy",
    "CallInfo",
    "CheckResult",
    "CheckType",
    "Client",
    "ClientClosed",
    "ClientOptions",
    "Codec",
    "CodecError",
    "ConnectFailed",
    "ConnectionLost",
    "CountUnknown",
    "DiskInfo",
    "Filter",
    "FilterType",
    "ForkedConnection",
    "FrameTooLarge",
    "Handle",
    "HashMapping",
    "HashRow",
    "HashRowWithTtl",
    "HedgePolicy",
    "HotKeyAction",
    "HotKeyKind",
    "Incomplete",
    "IntegerOverflow",
    "InvalidArgument",
    "JsonCodec",
    "Kerberos",
    "Listener",
    "MetaError",
    "MetaLevel",
    "MetaUnreachable",
    "MultiGetOptions",
    "MultiGetResult",
    "Mutations",
    "NodeInfo",
    "NotAnInteger",
    "NotEnoughReplicas",
    "NotServing",
    "PartitionInfo",
    "Pegasus",
    "PegasusError",
    "PegasusScanner",
    "ProposalKind",
    "ProtocolError",
    "RequestTimeout",
    "RetryPolicy",
    "Row",
    "RowWithTtl",
    "ScanOptions",
    "Scanner",
    "ServerError",
    "SortKeys",
    "SplitState",
    "SplitStatus",
    "Splitting",
    "StorageError",
    "Table",
    "TableError",
    "TableExists",
    "TableInfo",
    "TableNotFound",
    "TableStatus",
    "TableUnavailable",
    "TransportError",
    "Utf8Codec",
    "WriteRejected",
    "WrongThread",
    "ZstdCodec",
    "__version__",
    "accelerated",
    "codecs",
    "configure_logging",
    "connect",
    "error_types",
    "errors",
    "filter_type",
    "keys",
    "open_table",
    "shared_client",
]

_logging.getLogger(__name__).addHandler(_logging.NullHandler())

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> Any:
        """Load a public name and store it as a module attribute."""
        if name in _SUBMODULES:
            value: Any = _import_module(f"{__name__}.{name}")
        elif name in _HOMES:
            value = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})
