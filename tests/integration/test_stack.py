"""The whole path through the real services, asked by OpenAI's own client.

One stack for all tests here; only the models are stand-ins.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from agentteams.evaluation.v1 import evaluation_service_pb2 as evaluation_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb

from agentteams_cli.client import connect
from agentteams_cli.manifests_store import take_effect
from agentteams_cli.stack import Endpoint, ServiceProcess
from manifests import load_text
from servicekit.errors import InvalidArgument, NotFound
from tests.support.model_server import Fault, ModelServer
from tests.support.stack import (
    MODELS,
    SERVICES,
    LiveStack,
    knowledge_base,
    running_stack,
    team,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

# No common word is in two of them: among three texts even "of" would decide what is found first.
HANDBOOK = {
    "leave.md": b"# Leave\n\nEvery employee has thirty days of paid leave a year.\n\n"
    b"Leave that is not taken by March lapses.\n",
    "travel.md": b"# Travel\n\nTrain tickets: ask our travel desk, room 4711.\n",
    "expenses.txt": "Expenses above 200 €: signature from department head.\n".encode(),
}
QUESTION = "How many days of paid leave does an employee have a year?"
# Retries, a lease that expires, a service that starts again: all of them together.
BOUND_S = 45.0


@dataclass(kw_only=True)
class Outcome:
    """What a user got: an answer with its extras, or an error."""

    text: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    message: str = ""
    seconds: float = 0.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(chunks=12) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveStack]:
    chat = Endpoint(url=model.base_url, model="stand-in")
    async with running_stack(tmp_path_factory.mktemp("stack"), chat=chat) as stack:
        await stack.apply(
            MODELS,
            knowledge_base("handbook"),
            knowledge_base("nothing"),
            team("pair", "analyst", "writer", knowledge="handbook", search="Always"),
            team("solo", "clerk", knowledge="handbook"),
            team("newcomer", "clerk", knowledge="nothing", search="Always"),
        )
        documents = await stack.ingest("handbook", HANDBOOK)
        assert {d.state for d in documents.values()} == {kb.DOCUMENT_STATE_READY}
        yield stack


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def well_behaved_model(model: ModelServer) -> None:
    model.clear()
    model.chunk_delay_s = model.first_chunk_delay_s = 0.0


async def ask(
    live: LiveStack, name: str, *, question: str = QUESTION, headers: dict[str, str] | None = None
) -> Outcome:
    """Asks as a user does: streamed, once, with patience for BOUND_S."""
    outcome = Outcome()
    started = time.monotonic()
    try:
        async with asyncio.timeout(BOUND_S):
            stream = await live.client().chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": question}],
                stream=True,
                extra_headers=headers or {},
            )
            async for chunk in stream:
                outcome.text += chunk.choices[0].delta.content or ""
                outcome.extra = (chunk.model_extra or {}).get("agentteams", outcome.extra)
    except openai.APIError as error:
        outcome.error, outcome.message = error.code or type(error).__name__, error.message
    except httpx.TransportError as error:  # the connection itself broke in the middle of the stream
        outcome.error = type(error).__name__
    outcome.seconds = time.monotonic() - started
    return outcome


async def test_an_answer_with_citations_and_a_search_saved(live: LiveStack) -> None:
    outcome = await ask(live, "pair")
    assert outcome.error == ""
    cited = outcome.extra["citations"]
    assert any("thirty days" in c["text"] and c["document_title"] == "leave.md" for c in cited)
    assert f"[{cited[0]['number']}]" in outcome.text
    usage = outcome.extra["usage"]
    # Both members must search first, for the same: the ledger answers the second.
    assert (usage["searches"], usage["searches_saved"] >= 1) == (1, True)
    stages = {stage["stage"]: stage["duration_ms"] for stage in outcome.extra["stages"]}
    assert {"accept", "session_load", "llm_inference", "vector_search", "session_save"} <= set(stages)
    assert outcome.extra["status"] == "succeeded"


async def test_a_session_remembers(live: LiveStack, model: ModelServer) -> None:
    first = await ask(live, "solo", question="Where is the travel desk?")
    session = first.extra["session"]
    model.clear()
    second = await ask(live, "solo", question="And who is there?", headers={"X-AgentTeams-Session": session})
    assert second.extra["session"] == session
    seen = [m["content"] for m in model.chats()[0].messages]
    assert any("Where is the travel desk?" in (content or "") for content in seen)
    assert first.text in seen
    model.clear()
    third = await ask(live, "solo", question="And who is there?")
    assert third.extra["session"] != session
    assert not any("travel desk" in (m["content"] or "") for m in model.chats()[0].messages)


async def test_the_same_key_is_the_same_run(live: LiveStack) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first = await ask(live, "solo", headers=headers)
    again = await ask(live, "solo", headers=headers)
    assert (again.text, again.extra["run"]) == (first.text, first.extra["run"])
    other = await ask(live, "solo", question="Something else?", headers=headers)
    assert other.error == "request_id_reused"


async def test_quality_is_watched_with_a_golden_set_out_of_a_file(live: LiveStack) -> None:
    file = live.stack.state.config_maps / "golden" / "handbook.yaml"
    file.parent.mkdir()
    file.write_text(f'queries: [{{query: "{QUESTION}", relevant: [leave.md]}}]')
    text = knowledge_base("handbook").replace(
        "spec: {",
        "spec: {evaluation: {goldenSetRef: {configMapKeyRef: {name: golden, key: handbook.yaml}},"
        ' thresholds: {mrr: "0.9"}}, ',
    )
    manifest = load_text(text, file).objects[0].resource
    async with connect(live.stack.state) as client:
        assert await take_effect(client, [manifest], config_maps=live.stack.state.config_maps) == []

        async def good() -> bool:
            quality = (await client.knowledge_base("handbook")).quality
            return quality.state == quality.STATE_GOOD

        await until(good, within_s=60, what="good scores")


async def test_a_team_is_asked_a_golden_set_and_scored(live: LiveStack, model: ModelServer) -> None:
    questions = [
        evaluation_pb.GoldenQuestion(
            id="leave",
            question=QUESTION,
            sources=["leave.md", "prices.md"],
            facts=["each|ACCORDING  to the", "weeks"],
        ),
        evaluation_pb.GoldenQuestion(id="desk", question="Where is the travel desk?", sources=["travel.md"]),
    ]
    async with connect(live.stack.state) as client:
        id_ = str(uuid.uuid4())
        said = [one async for one in client.scores.evaluate("pair", questions, request_id=id_)]
        assert [(one.done, one.total) for one in said] == [(1, 2), (2, 2), (2, 2)]
        made = said[-1].evaluation
        leave, desk = made.questions
        assert (leave.error, leave.sources_found, list(leave.missing_sources)) == ("", 0.5, ["prices.md"])
        assert (leave.facts_present, list(leave.missing_facts)) == (0.5, ["weeks"])
        assert (desk.sources_found, desk.HasField("facts_present")) == (1.0, False)
        assert (made.sources_found, made.facts_present, made.failed) == (0.75, 0.5, 0)
        assert 0 < made.grounding <= 1
        assert made.team_revision == (await client.team("pair")).revision
        scores = await client.scores.of_run(leave.run)
        assert scores is not None
        assert scores.grounding == leave.grounding
        # Stored, and the newest; the same request is the same evaluation.
        assert (await client.scores.former("pair"))[0] == made
        with pytest.raises(NotFound) as nobody:
            await anext(client.scores.evaluate("nobody", questions, request_id=str(uuid.uuid4())))
        assert nobody.value.reason == "TEAM_NOT_FOUND"


async def test_without_documents_the_team_asks_for_some(live: LiveStack, model: ModelServer) -> None:
    outcome = await ask(live, "newcomer")
    assert outcome.error == ""
    assert "no documents" in outcome.text
    assert "ingest" in outcome.text
    assert outcome.extra["citations"] == []
    assert model.chats() == []


async def test_bad_documents_fail_alone(live: LiveStack) -> None:
    await live.apply(MODELS, knowledge_base("mixed"), file="mixed.yaml")
    with pytest.raises(InvalidArgument) as empty:
        await live.ingest("mixed", {"empty.md": b""})
    assert empty.value.reason == "DOCUMENT_EMPTY"
    documents = await live.ingest(
        "mixed", {"broken.pdf": b"%PDF-1.7 and then nothing", "good.md": b"# Good\n\nA text.\n"}
    )
    assert documents["good.md"].state == kb.DOCUMENT_STATE_READY
    assert documents["broken.pdf"].state == kb.DOCUMENT_STATE_FAILED
    assert documents["broken.pdf"].error.message


# -- trouble with the model's endpoint -------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=429, retry_after_s=1),
        Fault(kind="status", status=503),
        Fault(kind="cut", after_chunks=3, skip=1),
        Fault(kind="bad_tool_arguments"),
        Fault(kind="unknown_tool"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_passing_trouble_is_overcome(live: LiveStack, model: ModelServer, fault: Fault) -> None:
    model.fail(fault)
    outcome = await ask(live, "solo")
    assert outcome.error == ""
    assert outcome.seconds >= (fault.retry_after_s or 0)
    if fault.kind in ("bad_tool_arguments", "unknown_tool"):
        # The model was told what it did wrong, and went on.
        told = [m["content"] for m in model.chats()[-1].messages if m["role"] == "tool"]
        assert told
        assert told[0].startswith("Error: ")
    else:
        assert outcome.extra["citations"]
        assert outcome.text[outcome.extra["answer_offset"] :].startswith("According to the documents:")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(kind="status", status=429, retry_after_s=1, times=None), "model_rate_limited"),
        (Fault(kind="status", status=401, times=None), "model_rejected"),
        (Fault(kind="status", status=500, times=None), "model_unavailable"),
        (Fault(kind="stall", seconds=60, times=None), "model_unavailable"),
        (Fault(kind="stall", at="middle", seconds=60, times=None), "model_unavailable"),
        (Fault(kind="cut", times=None), "model_unavailable"),
        (Fault(kind="html", times=None), "model_bad_response"),
        (Fault(kind="bad_tool_arguments", times=None), "model_bad_response"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}-{value.at}" if isinstance(value, Fault) else None,
)
async def test_lasting_trouble_is_a_clear_error(
    live: LiveStack, model: ModelServer, fault: Fault, code: str
) -> None:
    model.fail(fault)
    outcome = await ask(live, "solo")
    assert outcome.error == code
    assert "runs/" in outcome.message
    model.clear()
    assert (await ask(live, "solo")).error == ""


async def test_a_model_that_is_down_is_a_clear_error(live: LiveStack, model: ModelServer) -> None:
    await model.stop()
    try:
        outcome = await ask(live, "solo")
    finally:
        await model.restart()
    assert outcome.error == "model_unavailable"
    assert (await ask(live, "solo")).error == ""


# -- services that die -------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_kill_in_the_middle_of_a_question(live: LiveStack, model: ModelServer, service: str) -> None:
    restarts = live.stack.services[service].restarts
    model.first_chunk_delay_s = 0.3
    model.chunk_delay_s = 0.05
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    asking = asyncio.create_task(ask(live, "solo", headers=headers))
    # The model is asked for the first time; its search and its answer are still to come.
    await model.received(1)
    await live.kill(service)
    outcome = await asking
    assert outcome.error or outcome.extra["status"] == "succeeded"
    assert outcome.seconds < BOUND_S

    await until(lambda: live.stack.services[service].restarts > restarts, what=f"restart of {service}")
    await live.healthy()
    model.chunk_delay_s = model.first_chunk_delay_s = 0.0
    after = await ask(live, "solo")
    assert after.error == ""
    assert any("thirty days" in citation["text"] for citation in after.extra["citations"])
    if service == "gateway":
        # The run went on without its client; the same key brings its answer.
        recovered = await ask(live, "solo", headers=headers)
        assert recovered.extra["status"] == "succeeded"
        assert recovered.extra["citations"]


async def test_every_service_stops_when_told_to(live: LiveStack) -> None:
    for name, service in live.stack.services.items():
        pid = service.pid
        os.kill(pid, signal.SIGTERM)
        # Less than the ten seconds after which the stack would kill it; then it is started again.
        await until(partial(has_other_pid, service, pid), within_s=6, what=f"end of {name}")
        await until(partial(getattr, service, "pid"), what=f"restart of {name}")
    await live.healthy()
    assert (await ask(live, "solo")).error == ""


def has_other_pid(service: ServiceProcess, pid: int) -> bool:
    return service.pid != pid
