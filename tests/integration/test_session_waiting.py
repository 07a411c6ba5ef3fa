"""Runs that wait for a person, over the wire."""

from datetime import UTC, timedelta
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, PermissionDenied, ServiceError
from tests.integration.test_session_user_data import BOB, Client, client, wrong_field
from tests.support.session_service import append, begin, event, finished
from tests.support.sessions import databases, migrated_file

__all__ = ["client", "databases", "migrated_file"]

ORCHESTRATOR = Caller("acme", "", "orchestrator")


def asks(sequence: int, call_id: str = "0.0", **request: Any) -> run_pb2.RunEvent:
    approval = run_pb2.ToolApprovalRequest(tool="send_mail")
    asked = run_pb2.InputRequested(call_id=call_id, **(request or {"approval": approval}))
    return event(sequence, input_requested=asked)


def decides(run: str, *, approved: bool = True, call_id: str = "0.0", user: str = "") -> Any:
    decision = run_pb2.ToolDecision(approved=approved, reason="as agreed")
    said = run_pb2.RunInput(call_id=call_id, decision=decision, user=user)
    return pb.ProvideRunInputRequest(run=run, input=said)


def replies(run: str, answer: str, call_id: str = "0.0") -> pb.ProvideRunInputRequest:
    return pb.ProvideRunInputRequest(run=run, input=run_pb2.RunInput(call_id=call_id, answer=answer))


async def parked(client: Client, *events: run_pb2.RunEvent, **fields: Any) -> run_pb2.Run:
    run: run_pb2.Run = (await client.BeginRun(begin(**fields))).run
    request = append(run.name, *events)
    request.park_until.FromDatetime(client.clock.now() + timedelta(hours=1))
    done = await client.AppendRunEvents(request)
    assert done.parked
    return run


async def acquire(client: Client) -> list[pb.AcquiredRun]:
    request = pb.AcquireExpiredRunsRequest(lease_owner="orchestrator-2")
    request.lease_duration.FromSeconds(30)
    with scope(caller=Caller("", "", "orchestrator")):
        return list((await client.AcquireExpiredRuns(request)).runs)


async def test_from_a_question_to_its_answer_and_on(client: Client) -> None:
    schema = Struct()
    schema.update({"type": "object", "required": ["sum"]})
    question = run_pb2.UserQuestion(text="Which one?", choices=["the red one", "the blue one"])
    run = await parked(client, asks(2, question=question), answer_schema=schema)
    waiting = await client.GetRun(pb.GetRunRequest(name=run.name))
    assert waiting.state == run_pb2.RUN_STATE_WAITING
    assert waiting.wait_expire_time.ToDatetime(UTC) == client.clock.now() + timedelta(hours=1)
    listed = await client.ListRuns(pb.ListRunsRequest(state=run_pb2.RUN_STATE_WAITING))
    assert [one.name for one in listed.runs] == [run.name]
    assert await acquire(client) == []

    for wrong in ("the green one", "", "x" * 32_769):
        assert await wrong_field(client.ProvideRunInput(replies(run.name, wrong))) == "input.answer"
    assert await wrong_field(client.ProvideRunInput(decides(run.name))) == "input"
    woken = await client.ProvideRunInput(replies(run.name, "the red one"))
    assert (woken.state, woken.HasField("wait_expire_time")) == (run_pb2.RUN_STATE_RUNNING, False)
    assert not (await client.ListRuns(pb.ListRunsRequest(state=run_pb2.RUN_STATE_WAITING))).runs
    # Until the log holds it, it is part of what is kept of the user.
    exported = await client.export()
    assert [r.run_input.answer for r in exported if r.HasField("run_input")] == ["the red one"]
    (taken,) = await acquire(client)
    assert (taken.run.name, taken.answer_schema) == (run.name, schema)
    (said,) = taken.inputs
    assert (said.call_id, said.answer, said.user) == ("0.0", "the red one", "ada")
    assert said.create_time.ToDatetime(UTC) == client.clock.now()
    renew = pb.RenewRunLeasesRequest(lease_owner="orchestrator-2", runs=[run.name])
    renew.lease_duration.FromSeconds(30)
    assert list((await client.RenewRunLeases(renew)).inputs) == [pb.RunInputs(run=run.name, inputs=[said])]
    provided = event(3, input_provided=run_pb2.InputProvided(input=said))
    done = await client.AppendRunEvents(append(run.name, provided, token=taken.fencing_token))
    assert list(done.inputs) == []
    assert list((await client.RenewRunLeases(renew)).inputs) == []
    log = (await client.ListRunEvents(pb.ListRunEventsRequest(run=run.name))).events
    assert log[0].run_started.answer_schema == schema
    assert log[2].input_provided.input == said


async def test_a_question_with_another_schema_is_another_question(client: Client) -> None:
    request = begin()
    request.answer_schema.update({"type": "object"})
    await client.BeginRun(request)
    request.answer_schema.update({"type": "array"})
    with pytest.raises(InvalidArgument) as caught:
        await client.BeginRun(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_decision_by_somebody_else_comes_through_an_orchestrator_only(client: Client) -> None:
    run = await parked(client, asks(2))
    with scope(caller=BOB), pytest.raises(NotFound):
        await client.ProvideRunInput(decides(run.name))
    for service in ("gateway", "orchestrator"):
        with scope(caller=Caller("globex", "", service)), pytest.raises((NotFound, PermissionDenied)):
            await client.ProvideRunInput(decides(run.name, user="bob"))
    with scope(caller=Caller("acme", "", "gateway")), pytest.raises(PermissionDenied):
        await client.GetRun(pb.GetRunRequest(name=run.name))
    with scope(caller=ORCHESTRATOR):
        assert (await client.GetRun(pb.GetRunRequest(name=run.name))).user == "ada"
        assert await wrong_field(client.ProvideRunInput(decides(run.name))) == "input.user"
        for _ in range(2):
            woken = await client.ProvideRunInput(decides(run.name, user="bob"))
            assert woken.state == run_pb2.RUN_STATE_RUNNING
    with pytest.raises(ServiceError) as caught:
        await client.ProvideRunInput(decides(run.name, approved=False))
    assert caught.value.reason == "INPUT_PROVIDED"
    (taken,) = await acquire(client)
    assert [(one.user, one.decision.approved) for one in taken.inputs] == [("bob", True)]


async def test_what_is_wrong_is_named(client: Client) -> None:
    run = (await client.BeginRun(begin())).run.name
    prefix = "events[0].input_requested"
    for field, wrong in (
        (f"{prefix}.call_id", asks(2, "")),
        (f"{prefix}.call_id", asks(2, "x" * 1_025)),
        (f"{prefix}.request", event(2, input_requested=run_pb2.InputRequested(call_id="0.0"))),
        ("events[0].input_provided.input.call_id", event(2, input_provided=run_pb2.InputProvided())),
        ("events[0].history_summarized.text", event(2, history_summarized=run_pb2.HistorySummarized())),
        (
            "events[0].history_summarized.through_message_sequence",
            event(2, history_summarized=run_pb2.HistorySummarized(text="short")),
        ),
    ):
        assert await wrong_field(client.AppendRunEvents(append(run, wrong))) == field
    ends = append(run, finished(2, run_pb2.RUN_STATE_SUCCEEDED))
    ends.park_until.FromDatetime(client.clock.now())
    assert await wrong_field(client.AppendRunEvents(ends)) == "park_until"
    assert await wrong_field(client.ListRuns(pb.ListRunsRequest(state=99))) == "state"  # type: ignore[arg-type]
    assert await wrong_field(client.ProvideRunInput(decides("run"))) == "run"
    assert await wrong_field(client.ProvideRunInput(decides(run, call_id=""))) == "input.call_id"
    nothing = pb.ProvideRunInputRequest(run=run, input=run_pb2.RunInput(call_id="0.0"))
    assert await wrong_field(client.ProvideRunInput(nothing)) == "input"
    long = decides(run)
    long.input.decision.reason = "x" * 1_025
    assert await wrong_field(client.ProvideRunInput(long)) == "input.decision.reason"
    big = begin()
    big.answer_schema.update({"description": "x" * 70_000})
    assert await wrong_field(client.BeginRun(big)) == "answer_schema"
    assert await wrong_field(client.BeginRun(begin(max_active_runs=-1))) == "max_active_runs"


async def test_a_summary_comes_with_the_next_question(client: Client) -> None:
    run = (await client.BeginRun(begin())).run
    summarized = run_pb2.HistorySummarized(text="They asked\0 why.", through_message_sequence=1)
    end = finished(3, run_pb2.RUN_STATE_SUCCEEDED)
    await client.AppendRunEvents(append(run.name, event(2, history_summarized=summarized), end))
    begun = await client.BeginRun(begin(session=run.session))
    assert (begun.history_summary, begun.summary_through_sequence) == (
        "They asked\N{REPLACEMENT CHARACTER} why.",
        1,
    )
    client.clock.advance(timedelta(minutes=1))
    (taken,) = await acquire(client)
    assert (taken.history_summary, taken.summary_through_sequence) == (begun.history_summary, 1)


async def test_too_many_runs_are_refused_with_the_numbers(client: Client) -> None:
    await client.BeginRun(begin(max_active_runs=1))
    with scope(caller=BOB), pytest.raises(ServiceError) as caught:
        await client.BeginRun(begin(max_active_runs=1))
    assert (caught.value.reason, caught.value.metadata["limit"]) == ("TOO_MANY_RUNS", "1")
    assert caught.value.retry_after is not None
