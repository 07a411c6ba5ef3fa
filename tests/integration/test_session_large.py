"""Large questions, results and answers over gRPC: whole wherever they are read, refused where too large."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as pb

from servicekit.errors import InvalidArgument
from tests.integration.test_session_user_data import Client, served, unique
from tests.support.session_service import acting, answer, append, begin, event, finished, tool_call
from tests.support.sessions import BACKENDS, migrated_file, opened

__all__ = ["migrated_file"]

QUESTION = "Why? " * 50_000
ANSWER = "Because of that [1]. " * 20_000
RESULT = "".join(f'{{"row": {n}}},\n' for n in range(120_000))


@pytest.fixture(params=BACKENDS)
async def ada(request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path) -> AsyncIterator[Client]:
    file = tmp_path / "session.db"
    async with (
        opened(request.param, file=file, template=migrated_file) as databases,
        served(databases) as client,
    ):
        yield client


def result(sequence: int, text: str) -> run_pb2.RunEvent:
    return event(sequence, tool_call_finished=run_pb2.ToolCallFinished(call_id="c2", result=text))


async def test_large_contents_are_whole_in_lists_history_forks_exports_and_take_overs(ada: Client) -> None:
    run = (await ada.BeginRun(begin(QUESTION))).run
    events = [tool_call(2), result(3, RESULT), answer(4, ANSWER)]
    await ada.AppendRunEvents(append(run.name, *events, finished(5, run_pb2.RUN_STATE_SUCCEEDED)))

    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name, after_sequence=1))).events
    assert list(log)[:3] == events
    messages = (await ada.ListMessages(pb.ListMessagesRequest(parent=run.session))).messages
    assert [m.content for m in messages] == [QUESTION, ANSWER]
    assert messages[1].citations == answer(4).message_completed.message.citations
    fork = await ada.ForkSession(pb.ForkSessionRequest(message=messages[1].name, request_id=unique()))
    forked = (await ada.ListMessages(pb.ListMessagesRequest(parent=fork.name))).messages
    assert [m.content for m in forked] == [QUESTION, ANSWER]

    exported = await ada.export()
    assert [r.message.content for r in exported if r.HasField("message")] == [QUESTION, ANSWER] * 2
    results = [r.run_event.tool_call_finished.result for r in exported if r.HasField("run_event")]
    assert RESULT in results

    second = await ada.BeginRun(begin(QUESTION, session=run.session, history_messages=9))
    assert [m.content for m in second.history] == [QUESTION, ANSWER]
    ada.clock.advance(timedelta(minutes=5))
    acquire = pb.AcquireExpiredRunsRequest(lease_owner="orchestrator-2")
    acquire.lease_duration.FromSeconds(30)
    with acting("", tenant="", service="orchestrator"):
        (taken,) = (await ada.AcquireExpiredRuns(acquire)).runs
    assert [m.content for m in taken.history] == [QUESTION, ANSWER]
    assert [m.content for m in taken.input] == [QUESTION]
    assert taken.owner_seen_time == second.run.create_time


@pytest.mark.parametrize(
    ("events", "field", "limit"),
    [
        ([tool_call(2), result(3, "x" * 2_000_001)], "events[1].tool_call_finished.result", "2000000"),
        ([answer(2, "x" * 8_400_000)], "events[0]", str(8 * 1024 * 1024)),
    ],
    ids=["result", "event"],
)
async def test_what_is_too_large_names_field_value_and_limit(
    ada: Client, events: list[run_pb2.RunEvent], field: str, limit: str
) -> None:
    run = (await ada.BeginRun(begin())).run
    with pytest.raises(InvalidArgument) as caught:
        await ada.AppendRunEvents(append(run.name, *events))
    (violation,) = caught.value.violations
    assert violation.field == field
    assert limit in violation.description
    assert any(size in violation.description for size in ("2000001", "84000"))
    assert (await ada.GetRun(pb.GetRunRequest(name=run.name))).last_sequence == 1
