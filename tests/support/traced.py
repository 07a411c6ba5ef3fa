"""Turns through the gateway of a stack whose spans come to a collector, and what is told about them."""

import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as session_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from servicekit.client import RpcClient, open_channel
from servicekit.context import scope
from servicekit.identity import TokenIssuer, load_key
from tests.support.otlp import Collector, Received, is_run
from tests.support.stack import CALLER, LiveStack, until

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client got."""

    status: int
    run: str
    trace: str
    text: str
    extra: dict[str, Any]  # the field `agentteams`


async def ask(
    live: LiveStack,
    team: str,
    question: str,
    *,
    sampled: bool | None,
    wait_scores_s: int = 0,
    stream: bool = False,
) -> Answer:
    """One question, as part of a trace of the client's (None: the client has none).

    Of a streamed answer the text is the stream as it came, and `extra` is empty.
    """
    trace = secrets.token_hex(16)
    headers = {}
    if sampled is not None:
        headers["traceparent"] = f"00-{trace}-{secrets.token_hex(8)}-0{int(sampled)}"
    if wait_scores_s:
        headers["x-agentteams-wait-scores"] = str(wait_scores_s)
    body = {"model": team, "messages": [{"role": "user", "content": question}], "stream": stream}
    # Plain HTTP: to read the certificates of authorities would be most of the work.
    async with httpx.AsyncClient(timeout=60 + wait_scores_s, trust_env=False, verify=False) as client:
        response = await client.post(f"{live.url}/chat/completions", json=body, headers=headers)
    whole_answer = response.is_success and not stream
    text = response.json()["choices"][0]["message"]["content"] if whole_answer else response.text
    run = response.headers.get("x-agentteams-run", "")
    extra = response.json()["agentteams"] if whole_answer else {}
    return Answer(status=response.status_code, run=run, trace=trace, text=text, extra=extra)


async def whole(
    collected: Collector, trace: str, *, names: Sequence[str] = (), within_s: float = 20.0
) -> list[Received]:
    """The spans of a trace when the run's, the gateway's and those of the names have come.

    Each process sends its spans in the order in which they ended.
    """

    def come() -> list[Received]:
        spans = collected.traces().get(trace, [])
        there = {span.name for span in spans}
        ended = any(is_run(s) for s in spans) and any(s.service == "gateway" for s in spans)
        return spans if ended and there >= set(names) else []

    found: list[Received] = await until(come, within_s=within_s, what=f"trace {trace}")
    return found


async def stored_run(live: LiveStack, name: str) -> run_pb2.Run:
    """A run as the session service has it."""
    channel = open_channel(f"127.0.0.1:{live.stack.services['session'].port}")
    issuer = TokenIssuer(load_key(live.stack.state.identity_key), service="test")
    rpc = RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=10))
    stub: Any = SessionServiceStub(channel)
    try:
        with scope(caller=CALLER):
            return await rpc.unary(stub.GetRun, session_pb.GetRunRequest(name=name))
    finally:
        await channel.close()


async def scrape(live: LiveStack, service: str) -> list[Any]:
    """The metric families of a service, read as OpenMetrics."""
    port = live.stack.services[service].metrics_port
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        response = await client.get(f"http://127.0.0.1:{port}/metrics", headers={"accept": _OPENMETRICS})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    return list(text_string_to_metric_families(response.text))  # type: ignore[no-untyped-call]


def run_span(spans: Sequence[Received]) -> Received:
    """The one span of the run."""
    (found,) = [span for span in spans if is_run(span)]
    return found


def stage_seconds(spans: Sequence[Received]) -> dict[str, float]:
    """Seconds of each stage without the stages inside it, as the stored breakdown counts them."""
    by_id = {span.id: span for span in spans}
    found: dict[str, float] = defaultdict(float)
    for span in spans:
        if not span.stage:
            continue
        found[span.stage] += span.seconds
        outer = by_id.get(span.parent)
        while outer is not None and not outer.stage:
            outer = by_id.get(outer.parent)
        if outer is not None:
            found[outer.stage] -= span.seconds
    return dict(found)


def covered_seconds(spans: Sequence[Received]) -> float:
    """How long at least one stage was active."""
    covered, until_ns = 0, 0
    for span in sorted((s for s in spans if s.stage), key=lambda s: s.start_ns):
        covered += max(0, span.end_ns - max(span.start_ns, until_ns))
        until_ns = max(until_ns, span.end_ns)
    return covered / 1e9
