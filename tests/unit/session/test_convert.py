"""Translations and small rules that need no database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb

from servicekit.errors import InvalidArgument
from session import convert
from session.adapters.blobs import event_bytes
from session.core.model import (
    TITLE_CHARACTERS,
    BusyPolicy,
    Message,
    Role,
    RunState,
    back_off,
    title_of,
)
from session.core.pages import newest_within, oldest_within, size_bytes


def message(sequence: int, content: str) -> Message:
    return Message(
        session="s",
        sequence=sequence,
        role=Role.USER,
        content=content,
        run="r",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        citations=b"",
    )


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("why?", "why?"),
        ("  two\n lines\t", "two lines"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("a" * 78 + " " + "b" * 9, "a" * 78 + "…"),
        ("\n" * 10_000, ""),
    ],
)
def test_a_title_is_the_start_of_the_question_on_one_line(question: str, title: str) -> None:
    assert title_of(question) == title
    assert len(title_of(question)) <= TITLE_CHARACTERS


def test_states_that_end_a_run() -> None:
    ended = {state for state in RunState if state.terminal}
    assert ended == {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


def test_a_cursor_keeps_the_microsecond() -> None:
    time = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert convert.place(convert.cursor(time, "abc")) == (time, "abc")
    assert convert.place(convert.cursor(time - timedelta(microseconds=1), "abc")) < (time, "abc")


def test_the_hash_of_a_question_ignores_who_carries_it() -> None:
    question = session_pb2.Message(role=session_pb2.ROLE_USER, content="why?")
    one = pb.BeginRunRequest(team="teams/a", input=[question], lease_owner="o1", team_revision="r1")
    two = pb.BeginRunRequest(team="teams/a", input=[question], lease_owner="o2", history_messages=9)
    assert convert.run_hash(one) == convert.run_hash(two)
    for other in (
        pb.BeginRunRequest(team="teams/b", input=[question]),
        pb.BeginRunRequest(team="teams/a", input=[question], session="sessions/x"),
        pb.BeginRunRequest(team="teams/a", input=[question, question]),
    ):
        assert convert.run_hash(other) != convert.run_hash(one)


def test_pages_keep_within_their_bytes() -> None:
    # Each counts four bytes a character that is not ASCII, and 256 for the rest.
    found = [message(n, "ü" * 1000) for n in range(1, 6)]
    assert [size_bytes(message(1, text)) for text in ("x" * 10, "ü" * 10)] == [266, 296]
    assert [m.sequence for m in oldest_within(found, 9_000, size_bytes)] == [1, 2]
    assert [m.sequence for m in newest_within(found, 9_000, size_bytes)] == [4, 5]
    assert [m.sequence for m in oldest_within(found, 1, size_bytes)] == [1]  # a page is never empty
    assert newest_within(found, 1, size_bytes) == []
    assert oldest_within(found, 10**9, size_bytes) == found
    assert newest_within(found, 10**9, size_bytes) == found


def test_pages_of_events_count_what_is_stored_elsewhere_and_are_never_empty() -> None:
    stored: list[tuple[Any, ...]] = [(n, "x", "", 0, b"x" * 1000, None, None) for n in (1, 2)]
    stored.append((3, "x", "", 0, b"", b"digest", 5000))
    assert [row[0] for row in oldest_within(stored, 2_100, event_bytes)] == [1, 2]
    assert [row[0] for row in oldest_within(stored, 5_000, event_bytes)] == [1, 2]
    assert [row[0] for row in oldest_within(stored, 1, event_bytes)] == [1]
    assert oldest_within(stored, 10_000, event_bytes) == stored
    assert oldest_within([], 1, event_bytes) == []


def test_the_second_attempt_comes_at_once_and_the_others_ever_later() -> None:
    assert [back_off(lost).total_seconds() for lost in range(9)] == [0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_unknown_busy_policy_names_the_field() -> None:
    assert convert.busy_policy(run_pb2.BUSY_POLICY_UNSPECIFIED) is BusyPolicy.ENQUEUE
    assert convert.busy_policy(run_pb2.BUSY_POLICY_INTERRUPT) is BusyPolicy.INTERRUPT
    newer: Any = 9
    with pytest.raises(InvalidArgument) as caught:
        convert.busy_policy(newer)
    assert caught.value.violations[0].field == "on_busy"
