"""Test when an answer of a meta server with a lower ballot replaces a known route."""

from __future__ import annotations

from typing import Any

import pytest

from pegasus_green.cluster import routing
from pegasus_green.cluster.routing import RoutingTable, build
from pegasus_green.protocol.meta import PartitionConfiguration, QueryCfgResponse

OLD, NEW = "old:1", "new:1"


class Answers:
    """Answers of meta servers for a table with one partition, and the time at which they come."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.table: RoutingTable | None = None

    @property
    def primary(self) -> str:
        assert self.table is not None
        return self.table.routes[0].primary

    def take(self, ballot: int, primary: str) -> str:
        """Use an answer; return the primary that is known then."""
        partition = PartitionConfiguration(pid=7, ballot=ballot, hp_primary=primary or None)
        reply = QueryCfgResponse(err="ERR_OK", app_id=7, partition_count=1, partitions=[partition])
        self.table = build(reply, _peer, self.table)
        return self.primary

    def fail(self) -> None:
        """Let a call fail at the known primary."""
        assert self.table is not None
        self.table.routes[0].failed_at = self.now

    def take_from(self, other: Answers) -> str:
        """Use the routes of another thread."""
        assert other.table is not None
        self.table = other.table.bound_to(_peer, self.table)
        return self.primary


def _peer(address: str, _other: str) -> Any:
    return address


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Know a route with ballot 9."""
    answers = Answers()
    monkeypatch.setattr(routing, "monotonic", lambda: answers.now)
    answers.take(9, OLD)
    return answers


def test_a_lower_ballot_is_accepted_if_all_answers_of_a_second_have_it_and_calls_fail(answers: Answers) -> None:
    for _ in range(4):
        answers.fail()
        assert answers.take(2, NEW) == OLD
        answers.now += 0.3
    answers.fail()
    assert answers.take(2, NEW) == NEW
    # From now on, ballots count as usual.
    assert answers.take(1, OLD) == NEW
    assert answers.take(3, OLD) == OLD


@pytest.mark.parametrize("failed", [False, True], ids=["never", "long ago"])
def test_a_lower_ballot_is_ignored_while_calls_do_not_fail(answers: Answers, failed: bool) -> None:
    assert answers.take(8, NEW) == OLD
    if failed:
        answers.fail()
    for _ in range(20):
        answers.now += 1.1
        assert answers.take(8, NEW) == OLD


@pytest.mark.parametrize(("ballot", "primary"), [(9, OLD), (1, NEW), (2, "other:1")])
def test_another_answer_in_between_starts_the_second_again(answers: Answers, ballot: int, primary: str) -> None:
    assert answers.take(2, NEW) == OLD
    answers.now += 0.9
    assert answers.take(ballot, primary) == OLD
    answers.now += 0.9
    answers.fail()
    assert answers.take(2, NEW) == OLD
    answers.now += 0.9
    answers.fail()
    assert answers.take(2, NEW) == OLD
    answers.now += 0.2
    assert answers.take(2, NEW) == NEW


def test_a_route_without_a_primary_needs_no_failed_call(answers: Answers) -> None:
    assert answers.take(10, "") == ""
    assert answers.take(2, NEW) == ""
    answers.now += 1.1
    assert answers.take(2, NEW) == NEW


def test_a_higher_ballot_corrects_an_outdated_answer_that_was_accepted(answers: Answers) -> None:
    answers.fail()
    answers.take(8, NEW)
    answers.now += 1.1
    answers.fail()
    assert answers.take(8, NEW) == NEW
    assert answers.take(9, OLD) == OLD


def test_threads_keep_the_routes_of_the_new_cluster(answers: Answers) -> None:
    """A thread without failed calls keeps the old route until another thread offers the new one."""
    idle = Answers()
    assert idle.take_from(answers) == OLD
    answers.fail()
    answers.take(2, NEW)
    answers.now += 1.1
    answers.fail()
    answers.take(2, NEW)
    assert answers.take_from(idle) == NEW
    assert idle.take_from(answers) == NEW
    # In the new cluster, the higher ballot counts.
    assert idle.take(3, "other:1") == "other:1"
    assert idle.take_from(answers) == "other:1"
    assert answers.take_from(idle) == "other:1"
