"""What sharing passes gives: callers of one text each, together and each for itself.

    python bench/embedding.py [--json FILE] [--callers 64] [--texts 640] [--model-dir FOLDER]

The service runs in this process, behind real gRPC, twice: as it is ("shared"),
and with each call given to the model by itself ("apart"). Both take turns within
one run, so that other work on the machine meets both alike, and no text is asked
twice. CPU is that of service and callers together.

The endpoint is a stand-in in a process of its own that works as one accelerator
does: one request after the other, 5 ms each and 0.1 ms for each text in it.
With --model-dir a local model is measured too.
"""

import argparse
import asyncio
import base64
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import structlog
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: this file is named as the package is

from embedding.adapters.factory import Factory  # noqa: E402
from embedding.adapters.onnx import OnnxEmbedder  # noqa: E402
from embedding.adapters.openai import OpenAIEmbedder  # noqa: E402
from embedding.core.admission import Admission  # noqa: E402
from embedding.core.embedding import Embedding  # noqa: E402
from embedding.core.models import Models  # noqa: E402
from embedding.core.ports import Embedder, LocalSource, RemoteSource, Source  # noqa: E402
from embedding.core.work import WorkQueue  # noqa: E402
from embedding.servicer import service  # noqa: E402
from manifests.endpoints import SecretFiles  # noqa: E402
from servicekit.client import RpcClient  # noqa: E402
from servicekit.testing import rpc_as, serve_in_process  # noqa: E402

LIMIT_S = 300.0  # of everything: a benchmark that hangs is a failed one
ROUNDS, LONE_CALLS, WARM_UP_CALLS = 3, 60, 20
REQUEST_S, TEXT_S, DIMENSION = 0.005, 0.0001, 384


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One model, one way of asking it; medians of the rounds."""

    model: str
    way: str
    texts_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_text: float
    lone_p50_ms: float
    lone_cpu_ms: float


async def stand_in() -> None:
    """The endpoint; prints its port, serves until it is terminated."""
    accelerator = asyncio.Lock()
    vector = base64.b64encode(np.ones(DIMENSION, "<f4").tobytes()).decode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            count = len(json.loads(await reader.readexactly(int(length.split(b":")[1])))["input"])
            async with accelerator:
                await asyncio.sleep(REQUEST_S + TEXT_S * count)
            data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(count)]
            usage = {"prompt_tokens": 10 * count, "total_tokens": 10 * count}
            answer = json.dumps({"object": "list", "model": "m", "data": data, "usage": usage}).encode()
            reply = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}"
            writer.write(reply.encode() + b"\r\n\r\n" + answer)

    async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(until_gone, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def endpoint() -> AsyncIterator[str]:
    """The stand-in as a process; yields its base URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--stand-in", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


async def apart(source: Source) -> Embedder:
    """`OpenEmbedder` that puts nothing together."""
    admission = Admission(max_texts=2048)
    if isinstance(source, LocalSource):
        return OnnxEmbedder.load(source.folder, work=WorkQueue(threads=2), admission=admission)
    return OpenAIEmbedder(source, admission=admission)


class Caller:
    """Asks a service, each time something new."""

    def __init__(self, rpc: RpcClient, tag: str) -> None:
        self._rpc = rpc
        self._stub = pb_grpc.EmbeddingServiceStub(rpc.channel)
        self._tag = tag
        self._asked = 0

    async def ask(self) -> float:
        """One text; returns the seconds it took."""
        self._asked += 1
        text = f"What happens to a run of {self._tag} whose lease number {self._asked} has expired?"
        began = time.perf_counter()
        request = pb.EmbedRequest(model="models/builtin", texts=[text], kind=pb.TEXT_KIND_QUERY)
        await self._rpc.unary(self._stub.Embed, request, timeout=timedelta(seconds=60))
        return time.perf_counter() - began


async def load(caller: Caller, *, callers: int, texts: int) -> tuple[float, float, list[float]]:
    """Wall seconds, CPU seconds, and the seconds of each call."""
    left, took = texts, []

    async def one() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            took.append(await caller.ask())

    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one())
    return time.perf_counter() - wall, time.process_time() - cpu, took


async def measure(name: str, source: Source, *, callers: int, texts: int) -> list[Figures]:
    """Both ways, in turns."""
    async with AsyncExitStack() as stack:
        ways = {}
        for way, opener in (("apart", apart), ("shared", Factory(threads=2, max_queued_texts=2048))):
            models = Models(builtin=source, configs=None, secrets=SecretFiles(None), open_embedder=opener)
            stack.push_async_callback(models.aclose)
            target = await stack.enter_async_context(serve_in_process([service(Embedding(models=models))]))
            rpc = await stack.enter_async_context(rpc_as(target))
            ways[way] = Caller(rpc, way)
            await load(ways[way], callers=4, texts=WARM_UP_CALLS)
        many: dict[str, list[tuple[float, float, list[float]]]] = {way: [] for way in ways}
        lone: dict[str, list[tuple[float, float, list[float]]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, caller in ways.items():
                lone[way].append(await load(caller, callers=1, texts=LONE_CALLS))
                many[way].append(await load(caller, callers=callers, texts=texts))
    figures = []
    for way in ways:
        took = [1000 * s for *_, each in many[way] for s in each]
        figures.append(
            Figures(
                model=name,
                way=way,
                texts_per_s=statistics.median(len(each) / wall for wall, _, each in many[way]),
                p50_ms=statistics.median(took),
                p99_ms=statistics.quantiles(took, n=100, method="inclusive")[98],
                cpu_ms_per_text=statistics.median(1000 * cpu / len(each) for _, cpu, each in many[way]),
                lone_p50_ms=statistics.median(1000 * s for *_, each in lone[way] for s in each),
                lone_cpu_ms=statistics.median(1000 * cpu / len(each) for _, cpu, each in lone[way]),
            )
        )
    return figures


async def run(arguments: argparse.Namespace) -> list[Figures]:
    """All models."""
    size = {"callers": arguments.callers, "texts": arguments.texts}
    async with asyncio.timeout(LIMIT_S), endpoint() as url:
        figures = await measure("endpoint", RemoteSource(url=url, model="m"), **size)
        if arguments.model_dir is not None:
            figures += await measure("local", LocalSource(folder=arguments.model_dir), **size)
    return figures


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--texts", type=int, default=640, help="of each round, by all callers")
    parser.add_argument("--model-dir", type=Path, help="folder of a local model")
    parser.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stand_in:
        asyncio.run(stand_in())
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures = asyncio.run(run(arguments))
    print("model      way      texts/s   p50 ms   p99 ms   CPU ms/text   lone p50 ms   lone CPU ms")
    for f in figures:
        many = f"{f.texts_per_s:>7.0f}  {f.p50_ms:>7.1f}  {f.p99_ms:>7.1f}   {f.cpu_ms_per_text:>11.2f}"
        print(f"{f.model:<9}  {f.way:<7}  {many}   {f.lone_p50_ms:>11.2f}   {f.lone_cpu_ms:>11.2f}")
    ratios = {
        before.model: after.texts_per_s / before.texts_per_s
        for before, after in zip(figures[::2], figures[1::2], strict=True)
    }
    for model, ratio in ratios.items():
        print(f"{model}: {arguments.callers} callers get {ratio:.1f} times as many texts a second")
    if arguments.json is not None:
        found = {"bench": "embedding", "callers": arguments.callers, "times_as_many": ratios}
        found["figures"] = [asdict(f) for f in figures]
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
