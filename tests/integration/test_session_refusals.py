"""What the session service refuses, over gRPC, and the words that it uses."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb

from tests.support.session_service import (
    Client,
    ada,
    answer,
    append,
    begin,
    event,
    finished,
    server,
    tool_call,
    violation,
)

__all__ = ["ada", "server"]

SYSTEM = session_pb2.Message(role=session_pb2.ROLE_SYSTEM, content="x")
USER = session_pb2.Message(role=session_pb2.ROLE_USER, content="x")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": "1"}, "request_id"),
        ({"team": "helpdesk"}, "team"),
        ({"team": "teams/Help Desk"}, "team"),
        ({"session": "nosuch"}, "session"),
        ({"input": []}, "input"),
        ({"input": [USER, SYSTEM]}, "input[1].role"),
        ({"input": [USER] * 201}, "input"),
        ({"input": [SYSTEM, USER], "session": "sessions/x"}, "input"),
        ({"input": [session_pb2.Message(content="x")]}, "input[0].role"),
        ({"input": [session_pb2.Message(role=session_pb2.ROLE_USER)]}, "input[0].content"),
        ({"input": [session_pb2.Message(role=session_pb2.ROLE_USER, content="\0")]}, "input[0].content"),
        ({"lease_owner": ""}, "lease_owner"),
        ({"lease_duration": timedelta(milliseconds=999)}, "lease_duration"),
        ({"lease_duration": timedelta(minutes=11)}, "lease_duration"),
        ({"history_messages": -1}, "history_messages"),
        ({"history_messages": 201}, "history_messages"),
        ({"team_revision": ""}, "team_revision"),
        ({"lease_address": "x" * 254}, "lease_address"),
        ({"on_busy": 9}, "on_busy"),
        ({"input": [session_pb2.Message(role=session_pb2.ROLE_USER, content="x" * 8_400_000)]}, "input"),
    ],
)
async def test_begin_run_names_the_wrong_field(ada: Client, fields: dict[str, Any], field: str) -> None:
    assert await violation(ada.BeginRun(begin(**fields))) == field
    assert len((await ada.ListSessions(pb.ListSessionsRequest())).sessions) == 0


def _without_time() -> run_pb2.RunEvent:
    made = tool_call(2)
    made.ClearField("create_time")
    return made


@pytest.mark.parametrize(
    ("events", "field"),
    [
        ([], "events"),
        ([tool_call(n) for n in range(2, 259)], "events"),
        ([tool_call(0)], "events[0].sequence"),
        ([tool_call(2), tool_call(4)], "events[1].sequence"),
        ([event(2)], "events[0].event"),
        ([event(2, run_started=run_pb2.RunStarted())], "events[0].event"),
        ([_without_time()], "events[0].create_time"),
        (
            [event(2, tool_call_finished=run_pb2.ToolCallFinished(result="x" * 2_000_001))],
            "events[0].tool_call_finished.result",
        ),
        ([finished(2, run_pb2.RUN_STATE_SUCCEEDED), tool_call(3)], "events[0].run_finished"),
        ([finished(2, run_pb2.RUN_STATE_RUNNING)], "events[0].run_finished.state"),
        ([finished(2, run_pb2.RUN_STATE_FAILED)], "events[0].run_finished.status"),
    ],
    ids=str,
)
async def test_append_names_the_wrong_field(ada: Client, events: list[run_pb2.RunEvent], field: str) -> None:
    run = (await ada.BeginRun(begin())).run
    assert await violation(ada.AppendRunEvents(append(run.name, *events))) == field
    assert (await ada.GetRun(pb.GetRunRequest(name=run.name))).last_sequence == 1


async def test_other_calls_name_the_wrong_field(ada: Client) -> None:
    long = session_pb2.Session(team="teams/a", display_name="x" * 201)
    create = pb.CreateSessionRequest(session=long, request_id=str(uuid.uuid4()))
    assert await violation(ada.CreateSession(create)) == "session.display_name"
    create = pb.CreateSessionRequest(request_id=str(uuid.uuid4()))
    assert await violation(ada.CreateSession(create)) == "session.team"
    assert await violation(ada.GetSession(pb.GetSessionRequest(name="runs/x"))) == "name"
    assert await violation(ada.ListSessions(pb.ListSessionsRequest(page_size=-1))) == "page_size"
    update = pb.UpdateSessionRequest(session=session_pb2.Session(name="sessions/x", team="teams/b"))
    update.update_mask.paths.append("team")
    assert await violation(ada.UpdateSession(update)) == "update_mask"
    events = pb.ListRunEventsRequest(run="runs/x", after_sequence=-1)
    assert await violation(ada.ListRunEvents(events)) == "after_sequence"
    token = append("runs/x", tool_call(2), token=0)
    assert await violation(ada.AppendRunEvents(token)) == "fencing_token"


async def test_an_event_that_no_response_could_hold_is_refused_before_it_is_stored(ada: Client) -> None:
    most = 8 * 1024 * 1024
    run = (await ada.BeginRun(begin())).run
    big = ada.AppendRunEvents(append(run.name, tool_call(2), answer(3, "x" * most)))
    assert await violation(big) == "events[1]"
    await ada.AppendRunEvents(append(run.name, answer(2, "x" * (most - 1000))))
    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name, after_sequence=1))).events
    assert len(log[0].message_completed.message.content) == most - 1000
