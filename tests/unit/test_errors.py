"""Test errors: one root class, builtin bases, readable texts, and complete copies by pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from pegasus_green import errors
from pegasus_green.errors import PegasusError, server_error, storage_error
from pegasus_green.protocol.binary import UnskippableField
from pegasus_green.protocol.codes import StorageStatus
from pegasus_green.retry import REACTIONS

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PegasusError)]
BUILTIN = {
    "InvalidArgument": ValueError,
    "WrongThread": RuntimeError,
    "RequestTimeout": TimeoutError,
    "MetaUnreachable": TimeoutError,
    "TransportError": ConnectionError,
    "AuthenticationFailed": ConnectionError,
    "ConnectFailed": ConnectionError,
    "ConnectionLost": ConnectionError,
    "ForkedConnection": ConnectionError,
    "TableNotFound": LookupError,
    "NotAnInteger": ValueError,
    "IntegerOverflow": OverflowError,
    "CodecError": ValueError,
}
FACTS: dict[str, Any] = {
    "code": "ERR_X",
    "table": "temp",
    "operation": "get",
    "address": "10.0.0.4:34801",
    "sent": True,
    "attempts": 3,
    "outcome_unknown": True,
    "rows": [(b"k", b"v")],
    "something_new": {"a": b"\0"},
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_errors_inherit_the_expected_builtin_errors(cls: type[PegasusError]) -> None:
    builtin = BUILTIN.get(cls.__name__)
    expected = {ValueError, RuntimeError, TimeoutError, ConnectionError, LookupError, OverflowError}
    assert {base for base in expected if issubclass(cls, base)} == ({builtin} if builtin else set())
    assert issubclass(cls, Exception)
    assert cls.__mro__.index(PegasusError) < cls.__mro__.index(builtin or Exception), "our text wins"
    assert cls.__doc__


def test_the_class_hierarchy_of_errors() -> None:
    assert issubclass(errors.FrameTooLarge, errors.ProtocolError)
    assert issubclass(UnskippableField, errors.ProtocolError)
    assert issubclass(errors.MetaUnreachable, errors.MetaError)
    families: dict[type[PegasusError], tuple[type[PegasusError], ...]] = {
        errors.TransportError: (errors.ConnectFailed, errors.ConnectionLost, errors.ForkedConnection),
        errors.TableError: (errors.TableNotFound, errors.TableExists, errors.TableUnavailable),
        errors.StorageError: (errors.NotAnInteger, errors.IntegerOverflow, errors.Incomplete, errors.CountUnknown),
    }
    for root, members in families.items():
        assert all(issubclass(member, root) for member in members)
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in CLASSES)


@pytest.mark.parametrize("cls", [*CLASSES, UnskippableField], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_everything(cls: type[PegasusError], protocol: int) -> None:
    last = errors.Busy("slow down", code="ERR_BUSY", attempts=2)
    error = cls("it did not work", last_error=last, **FACTS)
    found = pickle.loads(pickle.dumps(error, protocol))
    assert type(found) is cls
    assert (found.args, str(found), repr(found)) == (error.args, str(error), repr(error))
    facts = vars(found)
    other = facts.pop("last_error")
    assert facts == FACTS
    assert (type(other), str(other), other.attempts) == (errors.Busy, str(last), 2)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_copies_are_independent_instances(cls: type[PegasusError]) -> None:
    error = cls("text", **FACTS)
    for found in (copy.copy(error), copy.deepcopy(error)):
        assert found is not error
        assert (str(found), vars(found)) == (str(error), vars(error))
        found.table = "other"
        assert error.table == "temp"


def test_pickle_of_errors_that_were_filled_in_later() -> None:
    error = errors.RequestTimeout()
    error.table, error.attempts, error.args = "temp", 4, ("no answer within 2.0 s",)
    error.add_note("by the caller") if hasattr(error, "add_note") else None
    found = pickle.loads(pickle.dumps(error))
    assert str(found) == "no answer within 2.0 s [table=temp, sent=no, attempts=4]"
    assert vars(found) == vars(error)


def test_attributes_that_are_not_given_have_defaults() -> None:
    error = errors.ConnectionLost("gone")
    assert (error.code, error.table, error.operation, error.address) == ("ERR_SESSION_RESET", None, None, None)
    assert (error.sent, error.attempts, error.last_error, error.outcome_unknown) == (False, 0, None, False)
    assert errors.Incomplete().rows == ()
    assert errors.Incomplete().status == 7
    assert errors.StorageError().status == -1


# ----------------------------------------------------------------------------------------------------------------- text
def test_the_text_names_table_operation_and_server() -> None:
    error = errors.NotServing("the server answered ERR_INVALID_STATE", table="temp", operation="get", address="h:1")
    assert str(error) == "the server answered ERR_INVALID_STATE [table=temp, operation=get, server=h:1]"
    assert repr(error) == "NotServing('the server answered ERR_INVALID_STATE')"


def test_the_text_names_the_attempts() -> None:
    last = errors.Busy("the server answered ERR_BUSY", table="temp")
    error = errors.RequestTimeout("no success within 2.0 s", attempts=3, last_error=last, outcome_unknown=True)
    assert str(error) == (
        "no success within 2.0 s [sent=no, attempts=3, last error=the server answered ERR_BUSY, outcome=unknown]"
    )
    assert "attempts" not in str(errors.NotServing("text", attempts=1))
    # A timeout error names the number of attempts and the time.
    error = errors.RequestTimeout("text", attempts=1, sent=True, timeout=2.5)
    assert str(error) == "text [timeout=2.5 s, sent=yes, attempts=1]"


def test_foreign_last_errors_are_shown_with_their_type() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    error = errors.ConnectFailed("no connection", last_error=refused)
    assert str(error) == "no connection [last error=ConnectionRefusedError: [Errno 111] Connection refused]"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_text(cls: type[PegasusError]) -> None:
    for error in (cls(), cls("")):
        assert str(error).partition("\n")[0] == cls.__name__
    assert str(cls("why", last_error=cls())).startswith(f"why [last error={cls.__name__}]")


HINTS = {"AccessDenied", "Busy", "MetaUnreachable", "TableNotFound", "WrongThread"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_common_errors_have_a_hint(cls: type[PegasusError]) -> None:
    assert bool(cls.hint) == (cls.__name__ in HINTS)
    lines = str(cls("text", table="temp")).splitlines()
    assert lines[0] == "text [table=temp]"
    assert lines[1:] == ([f"HINT: {cls.hint}"] if cls.hint else [])


# ------------------------------------------------------------------------------------------------------ by name, number
@pytest.mark.parametrize(
    ("code", "cls"),
    [
        ("ERR_OBJECT_NOT_FOUND", errors.NotServing),
        ("ERR_INVALID_STATE", errors.NotServing),
        ("ERR_INACTIVE_STATE", errors.NotServing),
        ("ERR_PARENT_PARTITION_MISUSED", errors.NotServing),
        ("ERR_TRY_AGAIN", errors.NotServing),
        ("ERR_NOT_ENOUGH_MEMBER", errors.NotEnoughReplicas),
        ("ERR_CAPACITY_EXCEEDED", errors.NotEnoughReplicas),
        ("ERR_BUSY", errors.Busy),
        ("ERR_SPLITTING", errors.Splitting),
        ("ERR_DISK_INSUFFICIENT", errors.WriteRejected),
        ("ERR_DISK_IO_ERROR", errors.WriteRejected),
        ("ERR_OPERATION_DISABLED", errors.WriteRejected),
        ("ERR_INVALID_DATA", errors.WriteRejected),
        ("ERR_ACL_DENY", errors.AccessDenied),
        ("ERR_UNAUTHENTICATED", errors.AccessDenied),
        ("ERR_HANDLER_NOT_FOUND", errors.ServerError),
        ("ERR_INVALID_PARAMETERS", errors.ServerError),
        ("ERR_FROM_A_LATER_RELEASE", errors.ServerError),
    ],
)
def test_server_errors_by_name(code: str, cls: type[PegasusError]) -> None:
    error = server_error(code, table="temp")
    assert type(error) is cls
    assert error is not server_error(code, table="temp"), "every caller has its own"
    assert (error.code, error.table) == (code, "temp")
    assert code in str(error)


def test_every_retried_error_has_its_own_class() -> None:
    assert all(type(server_error(code)) is not errors.ServerError for code in REACTIONS)


@pytest.mark.parametrize("status", [*StorageStatus, 101, -104])
def test_storage_errors_by_number(status: int) -> None:
    error = storage_error(status, operation="get")
    assert type(error) is errors.StorageError
    assert (error.status, error.operation) == (status, "get")
    assert f"status {int(status)}" in str(error)
    assert error.code.startswith("ERR_")


def test_frame_errors_and_storage_statuses_have_separate_numbers() -> None:
    assert storage_error(5).code != "ERR_TIMEOUT"
    assert storage_error(1).code == "ERR_OBJECT_NOT_FOUND"
    assert not isinstance(storage_error(1), errors.NotServing)
