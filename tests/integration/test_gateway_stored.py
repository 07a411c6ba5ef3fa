"""Runs and conversations over HTTP, as they are stored: answers show where they are unsupported."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub

from servicekit.clock import SystemClock
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.score_servicer import ScoreServicer, score_service
from session.servicer import SessionServicer, session_service
from tests.support.gateway import serve_gateway
from tests.support.session_service import Client, answer, append, begin, finished
from tests.support.sessions import fill

SAID = "Two years. 😀 Three years [1]."


@dataclass
class World:
    """A session service, and a gateway before it whose clients are user `local` of tenant `default`."""

    session: str
    http: httpx.AsyncClient

    async def run(self, *, chosen: bool, user: str = "local") -> run_pb2.Run:
        """A run that has ended with the answer."""
        async with rpc_as(self.session, tenant="default", user=user) as rpc:
            client = Client(rpc)
            run: run_pb2.Run = (await client.BeginRun(begin("How long?"))).run
            end = finished(3, run_pb2.RUN_STATE_SUCCEEDED)
            if chosen:
                scoring = end.run_finished.summary.scoring
                scoring.selection = run_scores_pb2.ScoringRequest.SELECTION_SAMPLED
            await client.AppendRunEvents(append(run.name, answer(2, SAID), end))
        return run

    async def score(self, run: run_pb2.Run) -> None:
        """Its second sentence is unsupported."""
        kinds = run_scores_pb2.SentenceScore
        found = run_scores_pb2.RunScores(
            run=run.name,
            evaluator="judge",
            version="1",
            outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
            faithfulness=0.5,
            sentences=[
                kinds(start=0, end=10, verdict=kinds.VERDICT_SUPPORTED, faithfulness=0.875),
                kinds(start=13, end=29, verdict=kinds.VERDICT_UNSUPPORTED, faithfulness=0.125),
            ],
        )
        async with rpc_as(self.session, tenant="default", user="local", service="evaluation") as rpc:
            stub: Any = ScoreServiceStub(rpc.channel)
            await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=found))

    async def get(self, path: str, **query: str) -> Any:
        """The body of what is there."""
        response = await self.http.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    url = f"sqlite:///{tmp_path / 'session.db'}"
    await fill(url)
    async with AsyncExitStack() as stack:
        database = open_database(url, PoolLimits(connections=4, timeout=timedelta(seconds=5)))
        stack.push_async_callback(database.close)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        tokens = PageTokens(TEST_KEY)
        services = [
            session_service(SessionServicer(store=store, tokens=tokens)),
            score_service(ScoreServicer(store=store, tokens=tokens)),
        ]
        session = await stack.enter_async_context(serve_in_process(services))
        gateway = await stack.enter_async_context(serve_gateway("127.0.0.1:9", session=session))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=20))
        yield World(session=session, http=http)


async def test_a_stored_answer_shows_its_unsupported_sentences_when_they_are_known(world: World) -> None:
    run = await world.run(chosen=True)
    messages = f"/v1/{run.session}/messages"
    before = await world.get(f"/v1/{run.name}")
    assert (before["status"], before["error"], before["session"]) == ("succeeded", None, run.session)
    assert before["scores"] == {"missing": "not_yet", "reason": ""}
    assert [one["scores"] for one in (await world.get(messages))["messages"]] == [None, None]
    await world.score(run)
    asked, answered = (await world.get(messages))["messages"]
    assert (asked["role"], asked["content"], asked["scores"]) == ("user", "How long?", None)
    assert (answered["role"], answered["content"], answered["run"]) == ("assistant", SAID, run.name)
    (sentence,) = answered["scores"]["unsupported"]
    assert (sentence["text"], sentence["verdict"]) == ("Three years [1].", "unsupported")
    assert SAID[sentence["start"] : sentence["end"]] == sentence["text"]
    assert sentence["faithfulness"] == 0.125
    scores = (await world.get(f"/v1/{run.name}"))["scores"]
    assert (scores["outcome"], scores["faithfulness"]) == ("scored", 0.5)
    assert scores["unsupported"] == [sentence | {"text": None}]


async def test_a_run_that_nobody_scores_says_so(world: World) -> None:
    run = await world.run(chosen=False)
    assert (await world.get(f"/v1/{run.name}"))["scores"] == {"missing": "not_chosen", "reason": ""}


async def test_messages_come_in_pages(world: World) -> None:
    run = await world.run(chosen=False)
    path = f"/v1/{run.session}/messages"
    first = await world.get(path, page_size="1")
    second = await world.get(path, page_size="1", page_token=first["next_page_token"])
    assert [one["role"] for one in first["messages"] + second["messages"]] == ["user", "assistant"]
    assert second["next_page_token"] == ""


async def test_what_is_not_the_callers_is_not_there(world: World) -> None:
    foreign = await world.run(chosen=True, user="bob")
    nobodys = str(uuid.uuid4())
    for path, code in (
        (f"/v1/{foreign.name}", "run_not_found"),
        (f"/v1/{foreign.session}/messages", "session_not_found"),
        (f"/v1/runs/{nobodys}", "run_not_found"),
        (f"/v1/sessions/{nobodys}/messages", "session_not_found"),
        ("/v1/runs/Not an id", "run_not_found"),
    ):
        response = await world.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, code), path


@pytest.mark.parametrize(("name", "value"), [("page_size", "0"), ("page_size", "x"), ("page_token", "x")])
async def test_a_wrong_page_names_its_parameter(world: World, name: str, value: str) -> None:
    run = await world.run(chosen=False)
    response = await world.http.get(f"/v1/{run.session}/messages", params={name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name), response.text


async def test_a_session_service_that_is_away_is_an_error_and_no_empty_answer() -> None:
    async with (
        serve_gateway("127.0.0.1:9", session="127.0.0.1:9") as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as http,
    ):
        response = await http.get(f"/v1/runs/{uuid.uuid4()}")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "dependency_unavailable"
