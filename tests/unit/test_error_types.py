"""Test the codes of the documented API: their numbers, and the code of each error."""

from __future__ import annotations

import logging

import pytest

from pegasus_green import MultiGetOptions, Pegasus, ScanOptions, error_types, errors, filter_type
from pegasus_green.errors import (
    AuthenticationFailed,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    CountUnknown,
    ForkedConnection,
    Incomplete,
    MetaError,
    MetaUnreachable,
    PegasusError,
    ProtocolError,
    RequestTimeout,
    TableNotFound,
    TableUnavailable,
    WriteRejected,
    server_error,
    storage_error,
)

# In the order of their numbers, from 0.
NAMES = """\
OK UNKNOWN SERVICE_NOT_FOUND SERVICE_ALREADY_RUNNING IO_PENDING TIMEOUT SERVICE_NOT_ACTIVE BUSY NETWORK_INIT_FAILED
FORWARD_TO_OTHERS OBJECT_NOT_FOUND HANDLER_NOT_FOUND LEARN_FILE_FAILED GET_LEARN_STATE_FAILED INVALID_VERSION
INVALID_PARAMETERS CAPACITY_EXCEEDED INVALID_STATE INACTIVE_STATE NOT_ENOUGH_MEMBER FILE_OPERATION_FAILED HANDLE_EOF
WRONG_CHECKSUM INVALID_DATA INVALID_HANDLE INCOMPLETE_DATA VERSION_OUTDATED PATH_NOT_FOUND PATH_ALREADY_EXIST
ADDRESS_ALREADY_USED STATE_FREEZED LOCAL_APP_FAILURE BIND_IOCP_FAILED NETWORK_START_FAILED NOT_IMPLEMENTED
CHECKPOINT_FAILED WRONG_TIMING NO_NEED_OPERATE CORRUPTION TRY_AGAIN CLUSTER_NOT_FOUND CLUSTER_ALREADY_EXIST
SERVICE_ALREADY_EXIST INJECTED REPLICATION_FAILURE APP_EXIST APP_NOT_EXIST BUSY_CREATING BUSY_DROPPING NETWORK_FAILURE
UNDER_RECOVERY LEARNER_NOT_FOUND OPERATION_DISABLED EXPIRED LOCK_ALREADY_EXIST HOLD_BY_OTHERS RECURSIVE_LOCK NO_OWNER
NODE_ALREADY_EXIST INCONSISTENT_STATE ARRAY_INDEX_OUT_OF_RANGE DIR_NOT_EMPTY FS_INTERNAL IGNORE_BAD_DATA APP_DROPPED
MOCK_INTERNAL ZOOKEEPER_OPERATION CHILD_REGISTERED INGESTION_FAILED UNAUTHENTICATED KRB5_INTERNAL SASL_INTERNAL
SASL_INCOMPLETE ACL_DENY SPLITTING PARENT_PARTITION_MISUSED CHILD_NOT_READY DISK_INSUFFICIENT SESSION_RESET
THREAD_INTERRUPTED""".split()  # noqa: SIM905 - eighty quoted names would be a page


def test_numbers() -> None:
    assert [(member.name, member.value) for member in error_types] == [
        (f"ERR_{name}", number) for number, name in enumerate(NAMES)
    ]
    assert list(error_types.__members__) == [member.name for member in error_types], "two names for one number"


def test_spot_checks_of_the_numbers() -> None:
    # Counted by hand in the documentation, to detect a shift of the list above.
    for name, number in (("OK", 0), ("TIMEOUT", 5), ("OBJECT_NOT_FOUND", 10), ("INVALID_DATA", 23)):
        assert error_types[f"ERR_{name}"].value == number
    for name, number in (("INCOMPLETE_DATA", 25), ("REPLICATION_FAILURE", 44), ("APP_NOT_EXIST", 46)):
        assert error_types[f"ERR_{name}"].value == number
    for name, number in (("FS_INTERNAL", 62), ("SPLITTING", 74), ("SESSION_RESET", 78), ("THREAD_INTERRUPTED", 79)):
        assert error_types[f"ERR_{name}"].value == number


def test_filter_types() -> None:
    assert {member.name: member.value for member in filter_type} == {
        "FT_NO_FILTER": 0,
        "FT_MATCH_ANYWHERE": 1,
        "FT_MATCH_PREFIX": 2,
        "FT_MATCH_POSTFIX": 3,
    }


def test_options() -> None:
    assert vars(MultiGetOptions()) == {
        "start_inclusive": True,
        "stop_inclusive": False,
        "sortkey_filter_type": filter_type.FT_NO_FILTER,
        "sortkey_filter_pattern": "",
        "no_value": False,
        "reverse": False,
    }
    assert vars(ScanOptions()) == {
        "timeout_millis": 5000,
        "batch_size": 1000,
        "start_inclusive": True,
        "stop_inclusive": False,
        "snapshot": None,
        "sortkey_filter_type": filter_type.FT_NO_FILTER,
        "sortkey_filter_pattern": "",
        "hashkey_filter_type": filter_type.FT_NO_FILTER,
        "hashkey_filter_pattern": "",
    }


SURFACED = (
    "NOT_ENOUGH_MEMBER CAPACITY_EXCEEDED BUSY SPLITTING DISK_INSUFFICIENT OPERATION_DISABLED INVALID_DATA ACL_DENY"
)
ROUTING = "OBJECT_NOT_FOUND INVALID_STATE INACTIVE_STATE PARENT_PARTITION_MISUSED TRY_AGAIN"
MEANINGS: list[tuple[PegasusError, str]] = [
    # A storage status has the code of its meaning, not its number.
    (storage_error(1), "OBJECT_NOT_FOUND"),
    (storage_error(2), "CORRUPTION"),
    (storage_error(3), "NOT_IMPLEMENTED"),
    (storage_error(4), "INVALID_PARAMETERS"),
    (storage_error(5), "FS_INTERNAL"),
    (storage_error(7), "INCOMPLETE_DATA"),
    (storage_error(13), "TRY_AGAIN"),
    *((storage_error(status), "UNKNOWN") for status in (6, 8, 9, 10, 11, 12, 14, -5, 99)),
    (Incomplete("part"), "INCOMPLETE_DATA"),
    (CountUnknown("-1"), "INCOMPLETE_DATA"),
    # A frame error has the code of its name, except for errors about routes, which are a timeout.
    *((server_error(f"ERR_{name}"), name) for name in SURFACED.split()),
    *((server_error(f"ERR_{name}"), "TIMEOUT") for name in ROUTING.split()),
    (server_error("ERR_HANDLER_NOT_FOUND"), "HANDLER_NOT_FOUND"),
    (server_error("ERR_UNAUTHENTICATED"), "UNAUTHENTICATED"),
    (server_error("ERR_DISK_IO_ERROR"), "UNKNOWN"),
    (server_error("ERR_NEVER_HEARD_OF"), "UNKNOWN"),
    (WriteRejected("no body", code="ERR_OK"), "REPLICATION_FAILURE"),
    (RequestTimeout("late", last_error=server_error("ERR_OBJECT_NOT_FOUND")), "TIMEOUT"),
    (MetaUnreachable("nobody"), "TIMEOUT"),
    (MetaError("refused", code="ERR_ACL_DENY"), "ACL_DENY"),
    (TableNotFound("none"), "APP_NOT_EXIST"),
    (TableUnavailable("no primary", code="ERR_OBJECT_NOT_FOUND"), "TIMEOUT"),
    (TableUnavailable("soon"), "BUSY_CREATING"),
    (ConnectFailed("refused"), "NETWORK_FAILURE"),
    (AuthenticationFailed("no ticket"), "UNAUTHENTICATED"),
    (ConnectionLost("reset", sent=True), "SESSION_RESET"),
    (ForkedConnection("fork"), "SESSION_RESET"),
    (ClientClosed("closed"), "SERVICE_NOT_ACTIVE"),
    (ProtocolError("garbage"), "INVALID_DATA"),
    (ProtocolError("garbage", outcome_unknown=True), "UNKNOWN"),
    (PegasusError("?"), "UNKNOWN"),
]


@pytest.mark.parametrize(("error", "name"), MEANINGS, ids=[f"{type(e).__name__}-{e.code}-{n}" for e, n in MEANINGS])
def test_each_error_has_the_code_of_its_meaning(error: PegasusError, name: str) -> None:
    code = Pegasus()._code(error)
    assert type(code) is int
    assert error_types(code).name == f"ERR_{name}"


@pytest.mark.parametrize("error", [server_error("ERR_NEVER_HEARD_OF"), storage_error(11)], ids=["name", "status"])
def test_an_error_without_a_code_is_named_in_the_log(error: PegasusError, caplog: pytest.LogCaptureFixture) -> None:
    pegasus = Pegasus()
    with caplog.at_level(logging.WARNING, "pegasus_green"):
        for _ in range(1000):
            pegasus._code(error)
    assert len(caplog.records) == 1, "one line a second at most"
    assert ("ERR_NEVER_HEARD_OF" in caplog.text) == (error.code == "ERR_NEVER_HEARD_OF")
    assert ("status 11" in caplog.text) == (getattr(error, "status", 0) == 11)


def test_no_error_has_the_code_of_success() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PegasusError)]
    assert len(kinds) > 25
    for kind in kinds:
        assert Pegasus()._code(kind("message")) != error_types.ERR_OK
