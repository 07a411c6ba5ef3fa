"""Pictures of all dashboards from a real load: services, an API server with the operator, Prometheus.

    python -m bench.dashboards [--minutes 4] [--out charts/dashboards/pictures]

Two teams are asked, documents come in, the model endpoint answers some requests with 429, and half-way
the embedding service is killed, so that there is something to see. Panels without series are named.
The operator's dashboard needs the binaries of an API server (tests/support/kube.py).
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from openai import APIError, AsyncOpenAI

from agentteams_cli.stack import Endpoint
from bench.dashboard_pictures import draw, read
from bench.operator_scale import team as small_team
from charts.dashboards.boards import BOARDS
from tests.support.kube import Cluster, find_assets, temporary_cluster
from tests.support.kube_node import fake_node
from tests.support.model_script import ChatRequest, Reply, scenario
from tests.support.model_server import Fault, ModelServer
from tests.support.operator_process import fake_endpoint, model, running_operator
from tests.support.otlp import collector
from tests.support.ports import free_ports
from tests.support.prometheus import prometheus
from tests.support.stack import LiveStack, knowledge_base, running_stack, team, until

ROOT = Path(__file__).resolve().parent.parent
SCRAPE_S = 2
STEP_S = 4.0
NAMESPACE = "bench"
MODELS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec:
  type: Chat
  provider: BuiltIn
  limits: {timeoutSeconds: 10, maxRetries: 2}
  pricing: {currency: USD, inputPerMillionTokens: "2.50", outputPerMillionTokens: "10"}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: embed}
spec: {type: Embedding, provider: BuiltIn}
"""
EVALUATION = """  evaluation:
    samplePercent: 3
    judgeModelConfigRef: {name: chat}
    thresholds: {faithfulness: "0.85"}
"""


def model_script() -> Callable[[ChatRequest], Reply]:
    """Searches once and answers; asked for log-probabilities it is a judge, now and then in doubt."""
    answers, asked = scenario("one-search"), itertools.count()

    def reply(request: ChatRequest) -> Reply:
        if not request.body.get("logprobs"):
            return answers(request)
        sure = 0.2 if next(asked) % 7 == 0 else 0.9
        return Reply("Yes", top_logprobs={"Yes": sure, "No": 1 - sure})

    return reply


async def ask(client: AsyncOpenAI, name: str, numbers: Iterator[int], until_s: float) -> None:
    """Asks one question after another. Failures are what the dashboards are for."""
    while time.monotonic() < until_s:
        number = next(numbers) // 2  # two clients ask each: the second finds vectors remembered
        question = f"Question {number}: what happens to a run whose lease number {number} has expired?"
        try:
            answer = await client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": question}], stream=True
            )
            async for _ in answer:
                pass
        except APIError as error:
            print(f"  {name}: {error}")


async def trouble(live: LiveStack, server: ModelServer, minutes: float) -> None:
    """What makes the pictures worth a look."""
    documents = {file.name: file.read_bytes() for file in sorted((ROOT / "docs").glob("*.md"))}
    await asyncio.sleep(minutes * 15)
    for _ in range(12):
        server.fail(Fault(kind="status", status=429, retry_after_s=1))
    await asyncio.sleep(minutes * 15)
    await live.kill("embedding")
    await asyncio.sleep(minutes * 5)
    with_broken = documents | {"scan.pdf": b"%PDF-1.7 broken"}
    await live.ingest("manual", with_broken, within_s=240)


@asynccontextmanager
async def operated(exits: AsyncExitStack, folder: Path) -> AsyncIterator[dict[str, int]]:
    """An operator with some teams, of which one in five waits for its model; yields its metrics port."""
    if find_assets() is None:
        print("no Kubernetes API server here: the operator's dashboard stays empty")
        yield {}
        return
    cluster = exits.enter_context(temporary_cluster(controllers=True))
    endpoint = exits.enter_context(fake_endpoint())
    exits.enter_context(fake_node(cluster))
    cluster.install_crds()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    (port,) = free_ports(1)
    exits.enter_context(running_operator(cluster, folder, metrics_port=port))
    cluster.apply(model(endpoint), namespace=NAMESPACE)
    changes = asyncio.create_task(_change_teams(cluster))
    try:
        yield {"operator": port}
    finally:
        changes.cancel()
        await asyncio.gather(changes, return_exceptions=True)


async def _change_teams(cluster: Cluster) -> None:
    for number in range(60):
        wanted = small_team(number)
        if number % 5 == 0:
            wanted["spec"]["modelConfigRef"] = {"name": "missing"}
        await asyncio.to_thread(cluster.apply, wanted, namespace=NAMESPACE)
        await asyncio.sleep(2)


async def run(minutes: float, out: Path) -> None:
    """Everything: starts, loads, draws, stops."""
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="agentteams-dashboards-")))
        server = await exits.enter_async_context(ModelServer())
        server.script(model_script())
        spans = await exits.enter_async_context(collector())
        chat = Endpoint(url=server.base_url, model="stand-in")
        environment = {"AGENTTEAMS_OTLP_ENDPOINT": spans.endpoint}
        live = await exits.enter_async_context(
            running_stack(folder / "state", chat=chat, extra_env=environment)
        )
        await live.apply(
            MODELS,
            knowledge_base("docs"),
            knowledge_base("manual"),
            team("support", "agent") + EVALUATION,
            team("research", "reader", "checker", search="Always").replace(
                "spec:\n  modelConfigRef", "spec:\n  mode: Broadcast\n  modelConfigRef"
            )
            + EVALUATION,
        )
        documents = {file.name: file.read_bytes() for file in sorted((ROOT / "docs").glob("*.md"))}
        await live.ingest("docs", documents, within_s=240)
        operator = await exits.enter_async_context(operated(exits, folder))
        ports = {name: s.metrics_port for name, s in live.stack.services.items() if s.metrics_port}
        address = exits.enter_context(prometheus(folder, ports | operator, scrape_s=SCRAPE_S))
        await until(lambda: _answers(address), what="Prometheus ready")
        begun, numbers = time.time(), itertools.count()
        print(f"load for {minutes:g} minutes")
        until_s = time.monotonic() + 60 * minutes
        await asyncio.gather(
            trouble(live, server, minutes),
            *(ask(live.client(), name, numbers, until_s) for name in ("support", "support", "research")),
        )
        _draw_all(address, begun + 5 * SCRAPE_S, time.time(), out)


async def _answers(address: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"{address}/-/ready")).is_success
        except httpx.HTTPError:
            return False


def _draw_all(address: str, begin: float, end: float, out: Path) -> None:
    for board in BOARDS:
        lines = [read(address, panel, begin=begin, end=end, step_s=STEP_S) for panel in board.panels]
        draw(board, lines, out / f"{board.uid.removeprefix('agentteams-')}.png")
        empty = [panel.title for panel, found in zip(board.panels, lines, strict=True) if not found]
        shown = f"{len(lines) - len(empty)} of {len(lines)} panels have series"
        print(f"{board.title}: {shown}" + (f"; without: {', '.join(empty)}" if empty else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=ROOT / "charts" / "dashboards" / "pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(given.minutes, given.out))
