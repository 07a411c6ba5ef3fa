"""Followers that want a run's scores too, over gRPC: the stream goes on after the run's end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2, session_pb2
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub

from servicekit.errors import InvalidArgument, NotFound
from servicekit.testing import rpc_as
from tests.support.live import Live, as_ada, kinds, live
from tests.support.run_items import events

__all__ = ["as_ada", "live"]

NOT_CHOSEN, NOT_YET = pb.ScoresResult.MISSING_NOT_CHOSEN, pb.ScoresResult.MISSING_NOT_YET


async def score(live: Live, run: run_pb2.Run) -> run_scores_pb2.RunScores:
    """What an evaluation service stores."""
    wrong = run_scores_pb2.SentenceScore(
        start=0, end=4, verdict=run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED, faithfulness=0.125
    )
    found = run_scores_pb2.RunScores(
        run=run.name,
        evaluator="judge",
        version="1",
        outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
        faithfulness=0.25,
        sentences=[wrong],
    )
    target = f"127.0.0.1:{live.session_process.port}"
    async with rpc_as(target, tenant="default", user="ada", service="evaluation") as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        return await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=found))


async def until_end(stream: AsyncIterator[pb.RunItem]) -> list[pb.RunItem]:
    """The items up to the run's last event; the stream stays open."""
    items: list[pb.RunItem] = []
    while not items or not items[-1].event.HasField("run_finished"):
        items.append(await anext(stream))
    return items


async def test_a_follower_that_wants_scores_gets_them_after_the_end_and_others_nothing(live: Live) -> None:
    run = await live.start("?", team="scored")
    patient = live.follow(run, wait_scores=25)
    plain = [item async for item in live.follow(run)]
    items = await until_end(patient)
    assert items[-1].event.run_finished.summary.HasField("scoring")
    stored = await score(live, run)
    (last,) = [item async for item in patient]
    assert last.scores.scores == stored
    assert not [item for item in plain if item.HasField("scores")]
    assert [e.sequence for e in events(items)] == [e.sequence for e in events(plain)]
    assert kinds(await live.stored(run)) == kinds(events(plain))  # they are no part of the log

    # Who comes later, or again, asks for what it has not seen.
    end = events(plain)[-1].sequence
    again = [item async for item in live.follow(run, after=end, wait_scores=25)]
    assert (events(again), again[-1].scores.scores) == ([], stored)
    silent = [item async for item in live.follow(run, after=end)]
    assert (events(silent), [item for item in silent if item.HasField("scores")]) == ([], [])
    assert (await live.messages(run.session))[-1].scores.sentences == stored.sentences


async def test_a_run_started_and_followed_in_one_call_can_wait_for_its_scores(live: Live) -> None:
    request = pb.RunTeamRequest(
        start=pb.StartRunRequest(
            team="teams/scored",
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content="?")],
            request_id=str(uuid.uuid4()),
        )
    )
    request.wait_scores.FromSeconds(25)
    stream = live.orchestrator.server_stream(live.stub.RunTeam, request, timeout=timedelta(seconds=30))
    run: run_pb2.Run | None = None
    items: list[pb.RunItem] = []
    async for response in stream:
        run = response.run if response.HasField("run") else run
        items += response.items
        if items and items[-1].event.HasField("run_finished"):
            assert run is not None
            await score(live, run)
    assert items[-1].scores.scores.faithfulness == 0.25
    assert items[-2].event.HasField("run_finished")


async def test_what_never_comes_is_said_at_once_and_what_may_come_at_the_end_of_the_time(live: Live) -> None:
    async with asyncio.timeout(20):
        never = [item async for item in live.follow(await live.start("?"), wait_scores=25)]
    assert (never[-1].scores.WhichOneof("result"), never[-1].scores.missing) == ("missing", NOT_CHOSEN)
    run = await live.start("?", team="scored")
    late = [item async for item in live.follow(run, wait_scores=0.5)]
    assert late[-1].scores.missing == NOT_YET


@pytest.mark.parametrize("seconds", [-1.0, 601.0])
async def test_a_wait_out_of_bounds_is_refused(live: Live, seconds: float) -> None:
    run = await live.start("?")
    with pytest.raises(InvalidArgument, match="wait_scores"):
        [item async for item in live.follow(run, wait_scores=seconds)]
    unknown = run_pb2.Run(name=f"runs/{uuid.uuid4()}")
    with pytest.raises(NotFound):
        [item async for item in live.follow(unknown, wait_scores=5)]


async def test_scores_are_listed_page_by_page_by_their_owner(live: Live) -> None:
    runs = [await live.start("?", team="scored") for _ in range(2)]
    for run in runs:
        _ = [item async for item in live.follow(run)]
        await score(live, run)
    target = f"127.0.0.1:{live.session_process.port}"
    async with rpc_as(target, tenant="default", user="ada") as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        asked = scores_pb2.ListRunScoresRequest(team="teams/scored", page_size=1)
        first = await rpc.unary(stub.ListRunScores, asked)
        asked.page_token = first.next_page_token
        second = await rpc.unary(stub.ListRunScores, asked)
        found = [one.run for page in (first, second) for one in page.scores]
        assert found == [run.name for run in reversed(runs)], "newest first"
        asked.team = "teams/solo"
        with pytest.raises(InvalidArgument, match="page_token"):
            await rpc.unary(stub.ListRunScores, asked)
    async with rpc_as(target, tenant="default", user="eve") as rpc:
        stub = ScoreServiceStub(rpc.channel)
        assert not (await rpc.unary(stub.ListRunScores, scores_pb2.ListRunScoresRequest())).scores
