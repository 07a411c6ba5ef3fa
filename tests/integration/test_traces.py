"""Traces and metrics of the real services, with an OpenTelemetry collector and scrapes of all processes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from agentteams_cli.stack import Endpoint
from tests.support.model_server import Fault, ModelServer, Reply
from tests.support.otlp import Collector, Received, collector, orphans, path, tree
from tests.support.stack import MODELS, LiveStack, knowledge_base, running_stack, team, until
from tests.support.telemetry_schema import load_schema
from tests.support.traced import (
    ask,
    covered_seconds,
    run_span,
    scrape,
    stage_seconds,
    stored_run,
    whole,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

QUESTION = "How many days of paid leave does an employee have a year?"
LEAVE = b"# Leave\n\nEvery employee has thirty days of paid leave a year.\n"
SERVICES = ("gateway", "orchestrator", "session", "retrieval", "embedding")
GATEWAY = "POST /v1/chat/completions"
SAVED = "agentteams.session.v1.SessionService/AppendRunEvents"
EMBED = "agentteams.embedding.v1.EmbeddingService/Embed"
SEARCH = "agentteams.retrieval.v1.RetrievalService/Search"
EXEMPLARS = {  # histograms that have them after a streamed turn with a search
    "gateway": ("agentteams_http_first_text_seconds",),
    "orchestrator": (
        "agentteams_stage_duration_seconds",
        "agentteams_run_duration_seconds",
        "agentteams_model_call_duration_seconds",
        "agentteams_model_first_token_seconds",
        "agentteams_model_queue_seconds",
        "agentteams_rpc_duration_seconds",
    ),
    "retrieval": ("agentteams_retrieval_search_seconds",),
}
SLOW_S = 4.0
TEAMS = 500
STAGES = (
    "accept",
    "session_load",
    "context_assembly",
    "embedding",
    "vector_search",
    "llm_inference",
    "tool",
    "session_save",
)
WORKFLOW = """
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: steps}
spec:
  mode: Workflow
  modelConfigRef: {name: chat}
  members: [{name: clerk}]
  workflow:
    steps: [{name: draft, member: clerk}]
"""
CHECKED = (
    team("checked", "clerk", knowledge="handbook", search="Always") + "  evaluation: {samplePercent: 100}\n"
)


def plain(name: str) -> str:
    return f"""
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {{name: {name}}}
spec: {{modelConfigRef: {{name: chat}}, members: [{{name: clerk}}]}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(chunks=12) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collected() -> AsyncIterator[Collector]:
    async with collector() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(
    model: ModelServer, collected: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LiveStack]:
    environment = {
        "AGENTTEAMS_OTLP_ENDPOINT": collected.endpoint,
        "AGENTTEAMS_TRACE_RATIO": "0",  # only what the client samples, or the run's end calls for
        "AGENTTEAMS_TRACE_SLOW_S": str(SLOW_S),
    }
    chat = Endpoint(url=model.base_url, model="stand-in")
    folder = tmp_path_factory.mktemp("traced")
    async with running_stack(folder, chat=chat, extra_env=environment) as stack:
        await stack.apply(
            MODELS.replace("timeoutSeconds: 2", "timeoutSeconds: 30"),
            knowledge_base("handbook"),
            knowledge_base("nothing"),
            team("pair", "analyst", "writer", knowledge="handbook", search="Always"),
            team("solo", "clerk", knowledge="handbook"),
            team("newcomer", "clerk", knowledge="nothing", search="Always"),
            WORKFLOW,
            CHECKED,
        )
        await stack.ingest("handbook", {"leave.md": LEAVE})
        await asyncio.gather(*(ask(stack, "pair", QUESTION, sampled=None) for _ in range(4)))  # imports
        yield stack


@pytest.fixture(autouse=True)
def calm(model: ModelServer) -> None:
    model.clear()


def named(spans: list[Received], name: str, service: str = "") -> list[Received]:
    return [s for s in spans if s.name == name and service in ("", s.service)]


async def test_one_trace_shows_every_hop_of_a_team_s_turn(live: LiveStack, collected: Collector) -> None:
    answer = await ask(live, "pair", QUESTION, sampled=True)
    assert answer.status == 200
    spans = await whole(collected, answer.trace, names=[SAVED, EMBED, SEARCH])
    shown = tree(spans)
    assert [s.name for s in orphans(spans)] == [GATEWAY], shown  # its parent is the client's own
    assert {s.service for s in spans} == set(SERVICES), shown
    run = run_span(spans)
    assert run.attributes["agentteams.run"] == answer.run
    assert path(run, spans) == [
        GATEWAY,
        "agentteams.orchestrator.v1.OrchestratorService/RunTeam",
        "invoke_agent pair",
    ]
    for name, service, within in (
        ("accept", "orchestrator", "invoke_agent pair"),
        ("agentteams.session.v1.SessionService/BeginRun", "session", "session_load"),
        (SAVED, "session", "session_save"),
        (EMBED, "embedding", "embedding"),
        (SEARCH, "retrieval", "vector_search"),
        ("chat chat", "orchestrator", "llm_inference"),
        ("retrieval handbook", "orchestrator", "invoke_agent analyst"),
        ("vector_search", "retrieval", SEARCH),
    ):
        places = [path(s, spans)[-2] for s in named(spans, name, service)]
        assert within in places, f"{name} is within {places}\n{shown}"
    for member in ("analyst", "writer"):
        (work,) = named(spans, f"invoke_agent {member}")
        assert path(work, spans)[3:] == ["execute_tool delegate_task", f"invoke_agent {member}"], shown
        assert any(work.id in _above(s, spans) for s in named(spans, "chat chat")), shown
    searches = named(spans, "retrieval handbook")
    assert len(searches) >= 2, shown
    made = {s.id for s in searches if s.attributes["agentteams.search.source"] == "SEARCH"}
    reused = [s for s in searches if s.id not in made]
    assert reused, shown
    for span in reused:  # the ledger's answers name the search that found it
        assert [link in {(run.trace, one) for one in made} for link in span.links] == [True], shown
    chat = named(spans, "chat chat")[0].attributes
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.usage.input_tokens"] > 0
    assert {s.attributes.get("agentteams.tenant") for s in spans if s.service != "gateway"} == {"default"}
    teams = {s.attributes.get("agentteams.team") for s in spans if s.service in ("retrieval", "embedding")}
    assert teams == {"pair"}


async def test_model_endpoints_get_the_trace_and_nothing_else_of_it(
    live: LiveStack, model: ModelServer
) -> None:
    answer = await ask(live, "solo", QUESTION, sampled=True)
    chats = [r for r in model.requests if r.path.endswith("/chat/completions")]
    assert chats
    for request in chats:
        assert request.headers["traceparent"].startswith(f"00-{answer.trace}-")
        assert not {"baggage", "tracestate", "agentteams-spans"} & set(request.headers)
        assert answer.run not in str(request.headers)


async def test_stages_account_for_the_time_of_turns_under_load(live: LiveStack, collected: Collector) -> None:
    places = asyncio.Semaphore(8)

    async def one(number: int) -> dict[str, float]:
        async with places:
            answer = await ask(live, "solo", f"{QUESTION} ({number})", sampled=True)
        spans = await whole(collected, answer.trace, names=[SEARCH])
        stored = (await stored_run(live, answer.run)).summary
        stages = {f"stored {s.stage}": s.duration.ToTimedelta().total_seconds() for s in stored.stages}
        return stages | {
            "stored": stored.duration.ToTimedelta().total_seconds(),
            "traced": run_span(spans).seconds,
            "covered": covered_seconds(spans),
            **{f"traced {name}": seconds for name, seconds in stage_seconds(spans).items()},
        }

    turns = await asyncio.gather(*(one(number) for number in range(24)))
    sums = {name: sum(turn.get(name, 0.0) for turn in turns) for turn in turns for name in turn}
    assert sums["stored unaccounted"] / sums["stored"] <= 0.05, sums
    assert sums["covered"] / sums["traced"] >= 0.95, sums
    names = {name.split()[1] for name in sums if " " in name} - {"unaccounted"}
    assert names == set(STAGES)
    for stage in names:
        stored, traced = sums[f"stored {stage}"], sums[f"traced {stage}"]
        if stage == "session_save":  # only the session service can measure it: a part of the wait for it
            assert 0 < stored < traced
        else:
            assert traced == pytest.approx(stored, abs=max(0.05 * stored, 0.02 * sums["stored"])), stage


async def test_what_went_well_is_forgotten_and_what_did_not_is_kept_whole(
    live: LiveStack, collected: Collector, model: ModelServer
) -> None:
    good = await ask(live, "solo", QUESTION, sampled=False)
    weak = await ask(live, "newcomer", QUESTION, sampled=False)
    model.fail(Fault(kind="status", status=400, times=1, path="/chat/completions"))
    failed = await ask(live, "solo", QUESTION, sampled=False)
    assert failed.status >= 400
    spans: list[Received] = []
    for answer, verdict in ((weak, "degraded"), (failed, "failed")):
        spans = await whole(collected, answer.trace)
        assert run_span(spans).attributes["agentteams.kept"] == verdict, tree(spans)
        assert {"gateway", "orchestrator", "session"} <= {s.service for s in spans}, tree(spans)
        assert len(orphans(spans)) == 1, tree(spans)
    assert run_span(spans).error == "MODEL_REJECTED"
    assert named(spans, "chat chat")[0].error == "MODEL_REJECTED"
    assert good.trace not in collected.traces()  # it was over before those that have come


async def test_a_run_that_is_scored_keeps_its_trace_and_its_scores_lead_there(
    live: LiveStack, collected: Collector, model: ModelServer
) -> None:
    said = "An employee has thirty days of paid leave a year [1]. Whales are made of purple cheese."
    model.script(lambda request: Reply(said))
    answer = await ask(live, "checked", QUESTION, sampled=False, wait_scores_s=60)
    spans = await whole(collected, answer.trace)
    run = run_span(spans)
    assert run.attributes["agentteams.kept"] == "scored", tree(spans)
    assert run.attributes["agentteams.run"] == answer.run
    assert len(orphans(spans)) == 1, tree(spans)
    scores = answer.extra["scores"]
    assert [one["text"] for one in scores["unsupported"]] == ["Whales are made of purple cheese."]
    async with httpx.AsyncClient(base_url=live.url, timeout=20, trust_env=False) as client:
        stored = (await client.get(f"/{answer.extra['session']}/messages")).json()["messages"]
    assert stored[-1]["scores"]["unsupported"] == scores["unsupported"]

    def told() -> list[Received]:
        return [s for s in collected.spans if s.name == "evaluation"]

    (span,) = await until(told, what="the span of the evaluation")
    assert (span.service, span.links) == ("evaluation", ((run.trace, run.id),))
    assert span.attributes["agentteams.run"] == answer.run
    results = {event["gen_ai.evaluation.name"]: event for name, event in span.events}
    assert results["grounding"]["gen_ai.evaluation.score.value"] == pytest.approx(scores["grounding"])


async def test_a_slow_run_is_kept_from_its_beginning(
    live: LiveStack, collected: Collector, model: ModelServer
) -> None:
    model.fail(Fault(kind="stall", at="headers", seconds=SLOW_S + 0.5, path="/chat/completions"))
    answer = await ask(live, "steps", QUESTION, sampled=False)
    spans = await whole(collected, answer.trace)
    assert answer.status == 200
    assert run_span(spans).attributes["agentteams.kept"] == "slow", tree(spans)
    assert named(spans, "agentteams.session.v1.SessionService/BeginRun"), tree(spans)
    assert named(spans, "step draft"), tree(spans)


@pytest.mark.parametrize("sampled", [True, False])
async def test_a_killed_orchestrator_s_run_goes_on_in_the_same_trace(
    live: LiveStack, collected: Collector, model: ModelServer, sampled: bool
) -> None:
    seen = set(collected.traces())
    held = Fault(kind="stall", at="headers", seconds=20, times=1, skip=2, path="/chat/completions")
    model.fail(held)
    asked = asyncio.create_task(ask(live, "pair", QUESTION, sampled=sampled))
    await until(lambda: held.times == 0, what="the third model call")
    if sampled:  # spans go once a second
        await until(
            lambda: [s for s in collected.spans if s.name == "session_load" and s.trace not in seen],
            what="the spans before the kill",
        )
    await live.kill("orchestrator")
    answer = await asked
    assert answer.status == 200, answer.text
    await live.healthy()
    spans = await whole(collected, answer.trace, names=["resume_run"])
    shown = tree(spans)
    run = run_span(spans)
    assert path(run, spans)[-1] == "invoke_agent pair", shown
    assert run.attributes["agentteams.kept"] == "degraded", shown
    assert "taken_over" in run.attributes["agentteams.marks"], shown
    (resumed,) = named(spans, "resume_run")
    assert (resumed.parent, resumed.links) == (run.id, ((run.trace, run.id),)), shown
    before = [s for s in spans if s.end_ns < resumed.start_ns and s.service == "orchestrator"]
    after = [s for s in spans if s.start_ns >= resumed.start_ns and s.service == "orchestrator"]
    assert after, shown
    assert run.start_ns < resumed.start_ns, shown
    if sampled:  # else it was the dead process' alone
        assert any(s.name == "session_load" and s.parent == run.id for s in before), shown
    # The dead process cannot say what it was in the middle of.
    lost = {s.parent for s in orphans(spans)} - {run.parent}
    assert all(s.start_ns < resumed.start_ns for s in orphans(spans) if s.parent in lost), shown
    for member in ("analyst", "writer"):
        assert len(named(spans, f"invoke_agent {member}")) <= 1, shown
    assert any(run.id in _above(s, spans) for s in after if s.name == "chat chat"), shown


async def test_a_team_and_a_model_that_nobody_asked_are_counted_from_0(live: LiveStack) -> None:
    spare = "apiVersion: agentteams.dev/v1alpha1\nkind: ModelConfig\nmetadata: {name: spare}\n"
    spare += "spec: {type: Chat, provider: BuiltIn}\n"
    await live.apply(plain("unasked"), spare, file="unasked.yaml")
    wanted = [
        ("agentteams_runs_total", {"team": "default/unasked", "state": "FAILED"}, 0.0),
        ("agentteams_model_calls_total", {"model_config": "default/spare", "outcome": "unavailable"}, 0.0),
    ]

    async def served() -> bool:
        samples = [sample for family in await scrape(live, "orchestrator") for sample in family.samples]
        found = [(sample.name, sample.labels, sample.value) for sample in samples]
        return all(series in found for series in wanted)

    await until(served, within_s=40, what="both are there with 0")


async def test_500_teams_have_no_more_series_than_100(live: LiveStack, model: ModelServer) -> None:
    await live.apply(*(plain(f"t{number}") for number in range(TEAMS)), file="many.yaml")
    places = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with places:
            assert (await ask(live, f"t{number}", "Hello", sampled=None)).status == 200

    await asyncio.gather(*(one(number) for number in range(TEAMS)))
    most = {name: label["most"] for name, label in load_schema().labels.items() if "most" in label}
    for service in SERVICES:
        families = await scrape(live, service)
        samples = [sample for family in families for sample in family.samples]
        assert len(samples) < 10_000, service
        for label, bound in most.items():
            values = {sample.labels[label] for sample in samples if label in sample.labels}
            assert len(values) <= bound + 1, (service, label)
            if service == "orchestrator" and label == "team":
                assert "other" in values
                assert len(values) == bound + 1
        ended = sum(s.value for s in samples if s.name == "agentteams_runs_total")
        assert service != "orchestrator" or ended >= TEAMS


async def test_services_send_what_the_file_says_and_nothing_else(
    live: LiveStack, collected: Collector
) -> None:
    schema = load_schema()
    for service in SERVICES:
        emitted = {f.name: f for f in await scrape(live, service) if f.name.startswith("agentteams_")}
        used = {name for name, family in emitted.items() if family.samples}
        said = {m.name.removesuffix("_total"): m for m in schema.metrics.values() if service in m.services}
        assert used <= set(said), f"{service} sends what docs/telemetry.yaml does not have"
        assert set(said) <= set(emitted), f"{service} does not send what docs/telemetry.yaml has"
        for name in used:
            assert emitted[name].type == said[name].type
            for sample in emitted[name].samples:
                assert set(sample.labels) - {"le"} == set(said[name].labels), name
    seen = set()
    known = set(schema.common_attributes)
    for span in collected.spans:
        fitting = [s for s in schema.spans if s.fits(span.name) and span.service in s.services]
        assert len(fitting) == 1, f"{span.service}: {span.name} is missing in docs/telemetry.yaml"
        assert set(span.attributes) - known <= set(fitting[0].attributes), span.name
        seen.add(fitting[0].name)
    assert {s.name for s in schema.spans} - seen == {"rerank"}  # nobody has one here
    sent = {name for span in collected.spans for name in span.attributes}
    assert {name for name in schema.attributes if name.startswith("gen_ai.")} <= sent
    assert {a for s in schema.spans for a in s.attributes} == set(schema.attributes)


async def test_exemplars_lead_from_a_histogram_to_a_kept_trace(live: LiveStack, collected: Collector) -> None:
    answer = await ask(live, "solo", QUESTION, sampled=True, stream=True)
    await whole(collected, answer.trace, names=[SEARCH])
    for service, names in EXEMPLARS.items():
        families = {family.name: family for family in await scrape(live, service)}
        for name in names:
            samples = families[name].samples
            found = {s.exemplar.labels["trace_id"] for s in samples if s.exemplar is not None}
            assert answer.trace in found, name
            assert found <= set(collected.traces()), name


def _above(span: Received, spans: list[Received]) -> set[str]:
    by_id, found = {s.id: s for s in spans}, set()
    while span.parent in by_id:
        span = by_id[span.parent]
        found.add(span.id)
    return found
