"""SessionService over gRPC, in process."""

import asyncio
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from google.rpc import code_pb2, status_pb2

from servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unavailable,
)
from servicekit.testing import rpc_as
from tests.support.postgres import Postgres, shared_postgres, temporary_postgres
from tests.support.session_service import (
    Client,
    Server,
    acting,
    ada,
    answer,
    append,
    begin,
    finished,
    served,
    server,
    tool_call,
    violation,
)
from tests.support.sessions import PLAIN_ROLE, fill

__all__ = ["ada", "server"]

# A conversation


async def test_a_turn_from_question_to_answer(ada: Client) -> None:
    begun = await ada.BeginRun(begin("why is the sky blue?"))
    assert begun.created
    assert begun.fencing_token == 1
    run = begun.run
    assert re.fullmatch(r"runs/[0-9a-z]{26}", run.name)
    assert (run.state, run.team, run.user) == (run_pb2.RUN_STATE_RUNNING, "teams/helpdesk", "ada")
    assert not run.HasField("end_time")
    assert not run.HasField("summary")
    events = [tool_call(2), answer(3), finished(4, run_pb2.RUN_STATE_SUCCEEDED)]
    appended = await ada.AppendRunEvents(append(run.name, *events))
    assert appended.last_sequence == 4

    session = await ada.GetSession(pb.GetSessionRequest(name=run.session))
    assert (session.display_name, session.message_count) == ("why is the sky blue?", 2)
    messages = (await ada.ListMessages(pb.ListMessagesRequest(parent=run.session))).messages
    assert [(m.sequence, m.role, m.content) for m in messages] == [
        (1, session_pb2.ROLE_USER, "why is the sky blue?"),
        (2, session_pb2.ROLE_ASSISTANT, "because [1]"),
    ]
    assert messages[1].citations[0].document_title == "handbook.md"
    assert messages[1].name == f"{run.session}/messages/2"
    assert messages[1].run == run.name

    ended = await ada.GetRun(pb.GetRunRequest(name=run.name))
    assert (ended.state, ended.last_sequence) == (run_pb2.RUN_STATE_SUCCEEDED, 4)
    assert ended.summary.usage.input_tokens == 7
    assert ended.HasField("end_time")
    assert not ended.HasField("status")

    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name))).events
    assert log[0].run_started.team_revision == "r1"
    assert list(log[0].run_started.input_messages) == [messages[0].name]
    assert list(log[1:3]) == events[:2]  # as they were sent, to the last byte
    assert log[3].run_finished.summary.usage == events[2].run_finished.summary.usage
    tail = await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name, after_sequence=3, page_size=5))
    assert [e.sequence for e in tail.events] == [4]


async def test_a_failed_run_keeps_why_and_what_was_produced(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    why = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the model does not answer")
    end = finished(3, run_pb2.RUN_STATE_FAILED, status=why)
    await ada.AppendRunEvents(append(run.name, tool_call(2), end))
    failed = await ada.GetRun(pb.GetRunRequest(name=run.name))
    assert (failed.state, failed.status.message) == (run_pb2.RUN_STATE_FAILED, why.message)
    assert len((await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name))).events) == 3


async def test_only_the_teams_own_answer_becomes_a_message(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    await ada.AppendRunEvents(append(run.name, answer(2, "a draft", member="writer"), answer(3, "final")))
    messages = (await ada.ListMessages(pb.ListMessagesRequest(parent=run.session))).messages
    assert [m.content for m in messages] == ["why?", "final"]


async def test_a_retry_by_way_of_another_orchestrator_finds_the_run(ada: Client) -> None:
    request = begin()
    first = await ada.BeginRun(request)
    request.lease_owner = "orchestrator-2"
    request.team_revision = "r2"
    request.lease_duration.FromSeconds(60)
    again = await ada.BeginRun(request)
    assert (again.created, again.fencing_token, again.run) == (False, 0, first.run)
    request.input[0].content = "something else"
    with pytest.raises(InvalidArgument) as caught:
        await ada.BeginRun(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert caught.value.metadata["request_id"] == request.request_id


async def test_history_comes_with_the_next_run(ada: Client) -> None:
    run = (await ada.BeginRun(begin("one"))).run
    await ada.AppendRunEvents(append(run.name, answer(2), finished(3, run_pb2.RUN_STATE_SUCCEEDED)))
    begun = await ada.BeginRun(begin("two", run.session, history_messages=200))
    assert [(m.content, m.sequence) for m in begun.history] == [("one", 1), ("because [1]", 2)]
    assert begun.history[1].citations[0].number == 1


async def test_sessions_are_made_renamed_listed_and_deleted(ada: Client) -> None:
    request = pb.CreateSessionRequest(
        session=session_pb2.Session(team="teams/helpdesk", display_name="old"), request_id=str(uuid.uuid4())
    )
    session = await ada.CreateSession(request)
    assert await ada.CreateSession(request) == session
    update = pb.UpdateSessionRequest(session=session_pb2.Session(name=session.name, display_name="new"))
    assert (await ada.UpdateSession(update)).display_name == "new"
    # Nothing populated, no mask: nothing changes.
    update = pb.UpdateSessionRequest(session=session_pb2.Session(name=session.name))
    assert (await ada.UpdateSession(update)).display_name == "new"
    update.update_mask.paths.append("display_name")
    assert (await ada.UpdateSession(update)).display_name == ""
    assert len((await ada.ListSessions(pb.ListSessionsRequest(team="teams/helpdesk"))).sessions) == 1
    assert len((await ada.ListSessions(pb.ListSessionsRequest(team="teams/sales"))).sessions) == 0
    await ada.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    with pytest.raises(NotFound) as caught:
        await ada.GetSession(pb.GetSessionRequest(name=session.name))
    assert caught.value.reason == "SESSION_NOT_FOUND"


async def test_what_is_anothers_is_not_found(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    for user, tenant in (("bob", "acme"), ("ada", "globex")):
        with acting(user, tenant=tenant):
            for call in (
                ada.GetSession(pb.GetSessionRequest(name=run.session)),
                ada.GetRun(pb.GetRunRequest(name=run.name)),
                ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name)),
                ada.ListMessages(pb.ListMessagesRequest(parent=run.session)),
                ada.AppendRunEvents(append(run.name, tool_call(2))),
                ada.BeginRun(begin(session=run.session)),
                ada.DeleteSession(pb.DeleteSessionRequest(name=run.session)),
            ):
                with pytest.raises(NotFound):
                    await call


# Paging


async def test_pages_of_every_list(ada: Client) -> None:
    run = run_pb2.Run()
    for index in range(3):
        run = (await ada.BeginRun(begin(str(index)))).run
        await ada.AppendRunEvents(append(run.name, answer(2), finished(3, run_pb2.RUN_STATE_SUCCEEDED)))

    async def pages(method: Any, request: Any, field: str) -> list[int]:
        sizes = []
        while True:
            response = await method(request)
            sizes.append(len(getattr(response, field)))
            if not response.next_page_token:
                return sizes
            request.page_token = response.next_page_token

    assert await pages(ada.ListSessions, pb.ListSessionsRequest(page_size=2), "sessions") == [2, 1]
    assert await pages(ada.ListRuns, pb.ListRunsRequest(page_size=2), "runs") == [2, 1]
    assert await pages(ada.ListRuns, pb.ListRunsRequest(session=run.session), "runs") == [1]
    messages = pb.ListMessagesRequest(parent=run.session, page_size=1)
    assert await pages(ada.ListMessages, messages, "messages") == [1, 1]


async def test_a_page_token_is_good_for_its_own_list_only(ada: Client) -> None:
    for index in range(2):
        await ada.BeginRun(begin(str(index)))
    token = (await ada.ListSessions(pb.ListSessionsRequest(page_size=1))).next_page_token
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for request in (
        pb.ListSessionsRequest(page_token=flipped),
        pb.ListSessionsRequest(page_token="nonsense"),
        pb.ListSessionsRequest(page_token=token, team="teams/helpdesk"),
    ):
        assert await violation(ada.ListSessions(request)) == "page_token"
    assert await violation(ada.ListRuns(pb.ListRunsRequest(page_token=token))) == "page_token"
    with acting("bob"):
        assert await violation(ada.ListSessions(pb.ListSessionsRequest(page_token=token))) == "page_token"
    assert len((await ada.ListSessions(pb.ListSessionsRequest(page_token=token))).sessions) == 1


async def test_long_messages_make_short_pages(ada: Client) -> None:
    """A page of 200 long messages would not fit in a response."""
    system = session_pb2.Message(role=session_pb2.ROLE_SYSTEM, content="ü" * 700_000)
    question = session_pb2.Message(role=session_pb2.ROLE_USER, content="?")
    run = (await ada.BeginRun(begin(input=[*[system] * 5, question]))).run
    end = finished(3, run_pb2.RUN_STATE_SUCCEEDED)
    await ada.AppendRunEvents(append(run.name, answer(2, "ü" * 1_400_000), end))
    pages: list[list[int]] = []
    request = pb.ListMessagesRequest(parent=run.session)
    while True:
        response = await ada.ListMessages(request)
        pages.append([m.sequence for m in response.messages])
        assert all(m.content in (system.content, "?", "ü" * 1_400_000) for m in response.messages)
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert pages == [[1, 2, 3, 4, 5, 6], [7]]
    history = (await ada.BeginRun(begin(session=run.session, history_messages=200))).history
    assert [m.sequence for m in history] == [3, 4, 5, 6, 7]


# Leases


async def test_only_orchestrators_take_over(server: Server, ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    server.clock.advance(timedelta(seconds=31))
    request = pb.AcquireExpiredRunsRequest(lease_owner="orchestrator-2")
    request.lease_duration.FromSeconds(30)
    with pytest.raises(PermissionDenied):
        await ada.AcquireExpiredRuns(request)
    with acting("", tenant="", service="gateway"), pytest.raises(PermissionDenied):
        await ada.AcquireExpiredRuns(request)
    with acting("", tenant="", service="orchestrator"):
        (taken,) = (await ada.AcquireExpiredRuns(request)).runs
        renew = pb.RenewRunLeasesRequest(lease_owner="orchestrator-2", runs=[run.name, "runs/nosuch"])
        renew.lease_duration.FromSeconds(30)
        assert list((await ada.RenewRunLeases(renew)).lost_runs) == ["runs/nosuch"]
        with pytest.raises(PermissionDenied):  # what is a user's is touched on the user's behalf only
            await ada.GetRun(pb.GetRunRequest(name=run.name))
    assert (taken.run.name, taken.fencing_token, taken.tenant) == (run.name, 2, "acme")
    assert taken.run.user == "ada"
    with pytest.raises(ServiceError) as caught:
        await ada.AppendRunEvents(append(run.name, tool_call(2)))
    assert caught.value.reason == "LEASE_LOST"
    await ada.AppendRunEvents(append(run.name, tool_call(2), token=2))


async def test_a_busy_session_says_so(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    with pytest.raises(FailedPrecondition) as caught:
        await ada.BeginRun(begin(session=run.session, on_busy=run_pb2.BUSY_POLICY_REJECT))
    assert caught.value.reason == "SESSION_BUSY"
    assert caught.value.metadata == {"session": run.session, "run": run.name}
    with pytest.raises(FailedPrecondition):
        await ada.DeleteSession(pb.DeleteSessionRequest(name=run.session))


async def test_what_no_stage_accounts_for_is_told_last(ada: Client) -> None:
    begun = await ada.BeginRun(begin("why?"))
    end = finished(2, run_pb2.RUN_STATE_SUCCEEDED)
    for name in ("accept", "unaccounted"):
        end.run_finished.summary.stages.add(stage=name, count=1)
    stored = (await ada.AppendRunEvents(append(begun.run.name, end))).run_finished
    told = [stage.stage for stage in stored.run_finished.summary.stages]
    assert told == ["accept", "session_save", "unaccounted"]


async def test_the_end_says_how_long_storing_took_whenever_it_is_asked(ada: Client) -> None:
    begun = await ada.BeginRun(begin("why?"))
    request = append(begun.run.name, answer(2), finished(3, run_pb2.RUN_STATE_SUCCEEDED))
    stored = (await ada.AppendRunEvents(request)).run_finished
    [save] = stored.run_finished.summary.stages
    assert (save.stage, save.count) == ("session_save", 1)
    assert save.duration.ToTimedelta() > timedelta(0)
    assert stored.run_finished.summary.duration == save.duration  # the caller's own was 0
    # Whoever did not hear it, and whoever reads the log or the run, is told the same.
    assert (await ada.AppendRunEvents(request)).run_finished == stored
    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=begun.run.name))).events
    assert log[-1] == stored
    assert (await ada.GetRun(pb.GetRunRequest(name=begun.run.name))).summary == stored.run_finished.summary


async def test_a_queue_over_grpc(server: Server, ada: Client) -> None:
    first = await ada.BeginRun(begin("one", lease_address="10.0.0.1:50054"))
    assert (first.run.attempt, first.run.owner_address) == (1, "10.0.0.1:50054")
    second = await ada.BeginRun(begin("two", first.run.session, history_messages=9))
    assert (second.run.state, second.created) == (run_pb2.RUN_STATE_PENDING, True)
    assert second.fencing_token == 0
    assert not second.HasField("run_started")
    third = await ada.BeginRun(begin("three", first.run.session))
    now = await ada.BeginRun(begin("now", first.run.session, on_busy=run_pb2.BUSY_POLICY_INTERRUPT))
    listed = (await ada.ListRuns(pb.ListRunsRequest(session=first.run.session))).runs
    assert sum(run.state == run_pb2.RUN_STATE_PENDING for run in listed) == 3
    cancelled = await ada.RequestRunCancel(pb.RequestRunCancelRequest(name=third.run.name))
    assert cancelled.state == run_pb2.RUN_STATE_CANCELLED
    assert cancelled.HasField("summary")
    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=third.run.name))).events
    assert [e.WhichOneof("event") for e in log] == ["run_started", "run_finished"]

    asked = await ada.AppendRunEvents(append(first.run.name, tool_call(2)))
    assert asked.cancel_requested
    assert not asked.HasField("next_run")
    ended = await ada.AppendRunEvents(append(first.run.name, finished(3, run_pb2.RUN_STATE_CANCELLED)))
    assert ended.next_run.run.name == now.run.name
    ended = await ada.AppendRunEvents(
        append(now.run.name, answer(2), finished(3, run_pb2.RUN_STATE_SUCCEEDED))
    )
    acquired = ended.next_run
    assert (acquired.run.name, acquired.fencing_token, acquired.tenant) == (second.run.name, 1, "acme")
    assert [m.content for m in acquired.history] == ["one", "now", "because [1]"]
    assert acquired.history[2].citations[0].number == 1
    assert [(m.content, m.sequence) for m in acquired.input] == [("two", 4)]
    assert acquired.run.owner_address == "10.0.0.1:50054"


async def test_leases_are_given_back_over_grpc(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    with acting("", tenant="", service="orchestrator"):
        back = pb.RenewRunLeasesRequest(lease_owner="orchestrator-1", runs=[run.name])
        assert list((await ada.RenewRunLeases(back)).lost_runs) == []
        acquire = pb.AcquireExpiredRunsRequest(lease_owner="orchestrator-2", lease_address="b:1")
        acquire.lease_duration.FromSeconds(30)
        (taken,) = (await ada.AcquireExpiredRuns(acquire)).runs
        renew = pb.RenewRunLeasesRequest(lease_owner="orchestrator-2", runs=[run.name])
        renew.lease_duration.FromMilliseconds(999)
        assert await violation(ada.RenewRunLeases(renew)) == "lease_duration"
        renew.lease_duration.FromSeconds(3)
        assert list((await ada.RenewRunLeases(renew)).cancelled_runs) == []
        with acting("ada"):
            asked = await ada.RequestRunCancel(pb.RequestRunCancelRequest(name=run.name))
        assert asked.cancel_requested
        assert list((await ada.RenewRunLeases(renew)).cancelled_runs) == [run.name]
    assert (taken.run.attempt, taken.run.lost_attempts, taken.run.owner_address) == (2, 0, "b:1")
    assert [m.content for m in taken.input] == ["why?"]


async def test_long_events_make_short_pages(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    for sequence in range(2, 6):
        await ada.AppendRunEvents(append(run.name, answer(sequence, "x" * 3_000_000, member="writer")))
    pages, seen = [], 0
    while page := (
        await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name, after_sequence=seen))
    ).events:
        pages.append([e.sequence for e in page])
        seen = page[-1].sequence
    assert pages == [[1, 2, 3], [4, 5]]


async def test_a_models_nul_character_does_not_cost_the_answer(ada: Client) -> None:
    run = (await ada.BeginRun(begin())).run
    await ada.AppendRunEvents(append(run.name, answer(2, "a\0b")))
    messages = (await ada.ListMessages(pb.ListMessagesRequest(parent=run.session))).messages
    assert messages[1].content == "a�b"
    log = (await ada.ListRunEvents(pb.ListRunEventsRequest(run=run.name))).events
    assert log[1].message_completed.message.content == "a\0b"


# The real Postgres


async def test_a_turn_on_postgres() -> None:
    server: Postgres = shared_postgres()
    name = await server.create_from("session_template", fill)
    url = server.url(name, user=PLAIN_ROLE)
    async with served(url) as up, rpc_as(up.target, tenant="acme", user="ada") as rpc:
        await test_a_turn_from_question_to_answer(Client(rpc))
        await test_a_models_nul_character_does_not_cost_the_answer(Client(rpc))
    await server.drop(name)


async def test_postgres_killed_and_back_loses_nothing() -> None:
    with temporary_postgres() as postgres:
        name = await postgres.create()
        await fill(postgres.url(name))
        async with served(postgres.url(name)) as up, rpc_as(up.target) as rpc:
            client = Client(rpc)
            run = (await client.BeginRun(begin())).run
            await client.AppendRunEvents(append(run.name, tool_call(2)))
            await asyncio.to_thread(postgres.stop)
            with pytest.raises(Unavailable) as caught:
                await client.AppendRunEvents(append(run.name, tool_call(3)))
            assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
            await asyncio.to_thread(postgres.start)
            appended = await client.AppendRunEvents(append(run.name, tool_call(3), answer(4)))
            assert appended.last_sequence == 4
