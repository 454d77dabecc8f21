"""Types of the documented API: error codes, filter types and options."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from .errors import InvalidArgument, NotServing, PegasusError, ProtocolError, StorageError
from .keys import Key


class error_types(IntEnum):  # noqa: N801 - the documented name
    """Error codes that the methods of ``Pegasus`` return. Servers send only names; the numbers belong to this API."""

    ERR_OK = 0
    ERR_UNKNOWN = 1
    ERR_SERVICE_NOT_FOUND = 2
    ERR_SERVICE_ALREADY_RUNNING = 3
    ERR_IO_PENDING = 4
    ERR_TIMEOUT = 5
    ERR_SERVICE_NOT_ACTIVE = 6
    ERR_BUSY = 7
    ERR_NETWORK_INIT_FAILED = 8
    ERR_FORWARD_TO_OTHERS = 9
    ERR_OBJECT_NOT_FOUND = 10
    ERR_HANDLER_NOT_FOUND = 11
    ERR_LEARN_FILE_FAILED = 12
    ERR_GET_LEARN_STATE_FAILED = 13
    ERR_INVALID_VERSION = 14
    ERR_INVALID_PARAMETERS = 15
    ERR_CAPACITY_EXCEEDED = 16
    ERR_INVALID_STATE = 17
    ERR_INACTIVE_STATE = 18
    ERR_NOT_ENOUGH_MEMBER = 19
    ERR_FILE_OPERATION_FAILED = 20
    ERR_HANDLE_EOF = 21
    ERR_WRONG_CHECKSUM = 22
    ERR_INVALID_DATA = 23
    ERR_INVALID_HANDLE = 24
    ERR_INCOMPLETE_DATA = 25
    ERR_VERSION_OUTDATED = 26
    ERR_PATH_NOT_FOUND = 27
    ERR_PATH_ALREADY_EXIST = 28
    ERR_ADDRESS_ALREADY_USED = 29
    ERR_STATE_FREEZED = 30
    ERR_LOCAL_APP_FAILURE = 31
    ERR_BIND_IOCP_FAILED = 32
    ERR_NETWORK_START_FAILED = 33
    ERR_NOT_IMPLEMENTED = 34
    ERR_CHECKPOINT_FAILED = 35
    ERR_WRONG_TIMING = 36
    ERR_NO_NEED_OPERATE = 37
    ERR_CORRUPTION = 38
    ERR_TRY_AGAIN = 39
    ERR_CLUSTER_NOT_FOUND = 40
    ERR_CLUSTER_ALREADY_EXIST = 41
    ERR_SERVICE_ALREADY_EXIST = 42
    ERR_INJECTED = 43
    ERR_REPLICATION_FAILURE = 44
    ERR_APP_EXIST = 45
    ERR_APP_NOT_EXIST = 46
    ERR_BUSY_CREATING = 47
    ERR_BUSY_DROPPING = 48
    ERR_NETWORK_FAILURE = 49
    ERR_UNDER_RECOVERY = 50
    ERR_LEARNER_NOT_FOUND = 51
    ERR_OPERATION_DISABLED = 52
    ERR_EXPIRED = 53
    ERR_LOCK_ALREADY_EXIST = 54
    ERR_HOLD_BY_OTHERS = 55
    ERR_RECURSIVE_LOCK = 56
    ERR_NO_OWNER = 57
    ERR_NODE_ALREADY_EXIST = 58
    ERR_INCONSISTENT_STATE = 59
    ERR_ARRAY_INDEX_OUT_OF_RANGE = 60
    ERR_DIR_NOT_EMPTY = 61
    ERR_FS_INTERNAL = 62
    ERR_IGNORE_BAD_DATA = 63
    ERR_APP_DROPPED = 64
    ERR_MOCK_INTERNAL = 65
    ERR_ZOOKEEPER_OPERATION = 66
    ERR_CHILD_REGISTERED = 67
    ERR_INGESTION_FAILED = 68
    ERR_UNAUTHENTICATED = 69
    ERR_KRB5_INTERNAL = 70
    ERR_SASL_INTERNAL = 71
    ERR_SASL_INCOMPLETE = 72
    ERR_ACL_DENY = 73
    ERR_SPLITTING = 74
    ERR_PARENT_PARTITION_MISUSED = 75
    ERR_CHILD_NOT_READY = 76
    ERR_DISK_INSUFFICIENT = 77
    ERR_SESSION_RESET = 78
    ERR_THREAD_INTERRUPTED = 79


class filter_type(IntEnum):  # noqa: N801 - the documented name
    """How the server compares a filter pattern with a key, as ``FilterType``."""

    FT_NO_FILTER = 0
    FT_MATCH_ANYWHERE = 1
    FT_MATCH_PREFIX = 2
    FT_MATCH_POSTFIX = 3


def name_of(error: PegasusError) -> str:
    """Return the name of an error in this API; "" if it has none. Some names are not members of ``error_types``."""
    if isinstance(error, StorageError):
        # Number 10 (OBJECT_NOT_FOUND) means only "no such key" in this API.
        return error.code
    if isinstance(error, NotServing) or error.code == "ERR_OBJECT_NOT_FOUND":
        return "ERR_TIMEOUT"  # no usable route before the deadline
    if isinstance(error, ProtocolError) and error.outcome_unknown:
        return ""  # ERR_INVALID_DATA would mean that the server refused the write
    return "ERR_REPLICATION_FAILURE" if error.code == "ERR_OK" else error.code


class MultiGetOptions:
    """Options of ``multi_get_opt``. Set the attributes that differ from the defaults. Calls do not change the object.

    Attributes:
        start_inclusive: Whether the range includes its start; True by default.
        stop_inclusive: Whether the range includes its end; False by default.
        sortkey_filter_type: A member of ``filter_type``: how the server compares sort keys with the pattern. By
            default it compares nothing.
        sortkey_filter_pattern: The pattern.
        no_value: Whether to return ``b""`` instead of the values; False by default.
        reverse: Whether to read from the end of the range; False by default. The result is ascending in any case.
    """

    def __init__(self) -> None:
        """Set the defaults: range [start, stop), no filter, with values, ascending."""
        self.start_inclusive: bool = True
        self.stop_inclusive: bool = False
        self.sortkey_filter_type: int = filter_type.FT_NO_FILTER
        self.sortkey_filter_pattern: Key = ""
        self.no_value: bool = False
        self.reverse: bool = False

    def __repr__(self) -> str:
        """Show all options."""
        return _show(self)


class ScanOptions:
    """Options of a scanner. Set the attributes that differ from the defaults. Calls do not change the object.

    Attributes:
        timeout_millis: Milliseconds for one batch with all its attempts; 5,000 by default. 0 or less: the client's
            timeout.
        batch_size: Number of rows in a batch, at most 1,000 (the default).
        start_inclusive: Whether the range includes its start; True by default.
        stop_inclusive: Whether the range includes its end; False by default.
        snapshot: This option has no effect.
        sortkey_filter_type: A member of ``filter_type``: how the server compares sort keys with the pattern. By
            default it compares nothing.
        sortkey_filter_pattern: The pattern for sort keys.
        hashkey_filter_type: As ``sortkey_filter_type``, for hash keys.
        hashkey_filter_pattern: The pattern for hash keys.
    """

    def __init__(self) -> None:
        """Set the defaults: batches of 1,000 rows, 5 s for each, range [start, stop), no filters."""
        self.timeout_millis: float = 5000
        self.batch_size: int = 1000
        self.start_inclusive: bool = True
        self.stop_inclusive: bool = False
        self.snapshot: Any = None
        self.sortkey_filter_type: int = filter_type.FT_NO_FILTER
        self.sortkey_filter_pattern: Key = ""
        self.hashkey_filter_type: int = filter_type.FT_NO_FILTER
        self.hashkey_filter_pattern: Key = ""

    def __repr__(self) -> str:
        """Show all options."""
        return _show(self)


def whole(number: Any, name: str) -> int:
    """Return a whole number; raise InvalidArgument for anything else. The error names the argument."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidArgument(f"{name} must be a whole number, not {number!r}")
    return number


def batch_size(options: ScanOptions) -> int:
    """Return the number of rows in a batch."""
    size = whole(options.batch_size, "batch_size")
    return size if size > 0 else ScanOptions().batch_size


def sort_keys(keys: Iterable[Key] | None) -> list[Key]:
    """Return the sort keys of the argument sortkey_set as a list."""
    if isinstance(keys, (str, bytes, bytearray, memoryview)):
        raise InvalidArgument(f"sortkey_set must be a collection of keys, such as a set, not one {type(keys).__name__}")
    if keys is not None and not isinstance(keys, Iterable):
        raise InvalidArgument(f"sortkey_set must be an iterable of keys or None, not {keys!r}")
    return [] if keys is None else list(keys)


def _show(options: object) -> str:
    return f"{type(options).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(options).items())})"
