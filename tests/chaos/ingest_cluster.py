"""Milvus Lite, the retrieval service and two ingest workers as processes, each of which can be killed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from tests.support.milvus import MilvusLite
from tests.support.ports import free_port
from tests.support.postgres import shared_postgres
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30
LEASE_S = 3


@dataclass(kw_only=True)
class Process:
    """`python -m ...`; can be killed and started again at the same port."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    port: int
    metrics_port: int = 0
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self.command], env=self.env, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        """Its health says SERVING."""
        async with asyncio.timeout(START_TIMEOUT_S), grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as c:
            stub: Any = health_pb2_grpc.HealthStub(c)
            while True:
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} has ended; see {self.log}")
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.aio.AioRpcError:
                    pass
                await asyncio.sleep(0.05)  # polling another process; nothing here tells us

    async def stop(self) -> None:
        """SIGTERM, as a roll-out does it."""
        if self.process is not None:
            self.process.terminate()
            await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_S)
            self.process = None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass(frozen=True, kw_only=True)
class IngestCluster:
    """Everything that runs."""

    milvus: MilvusLite
    service: Process
    workers: list[Process]
    client: RetrievalClient
    database_url: str
    embedding: HashEmbeddingServicer | None

    async def kill(self, name: str) -> None:
        """`milvus`, `service`, `worker-0` ..."""
        if name == "milvus":
            await asyncio.to_thread(self.milvus.kill)
        else:
            self._named(name).kill()

    async def start(self, name: str) -> None:
        """After a kill; Milvus answers afterwards, the others are on their way."""
        if name == "milvus":
            await asyncio.to_thread(_start_milvus, self.milvus)
        else:
            self._named(name).start()

    @property
    def names(self) -> list[str]:
        """All that can be killed."""
        return ["milvus", self.service.name, *(worker.name for worker in self.workers)]

    def _named(self, name: str) -> Process:
        return next(p for p in (self.service, *self.workers) if p.name == name)


def _start_milvus(milvus: MilvusLite) -> None:
    """A machine that is busy with all this may take longer than its usual start."""
    for _ in range(3):
        try:
            milvus.start()
        except RuntimeError:
            milvus.kill()
        else:
            return
    milvus.start()


@asynccontextmanager
async def ingest_cluster(
    folder: Path,
    *,
    store: str = "sqlite",
    workers: int = 2,
    model: Path | None = None,
    milvus_uri: str = "",
) -> AsyncIterator[IngestCluster]:
    """Runs it all in the folder.

    Args:
        store: Of the catalogue: sqlite or postgres.
        model: Folder of a real embedding model; none: words are hashed, by the test's own process.
        milvus_uri: Of another Milvus than Lite; that one is the caller's to end.
    """
    async with AsyncExitStack() as stack:
        key = folder / "key"
        key.write_bytes(TEST_KEY.to_file())
        milvus = MilvusLite(folder / "milvus")
        stack.callback(milvus.kill)
        if not milvus_uri:
            await asyncio.to_thread(_start_milvus, milvus)
        common = dict(os.environ) | {
            "AGENTTEAMS_IDENTITY_KEY_FILE": str(key),
            "AGENTTEAMS_LOG_LEVEL": "info",
            "AGENTTEAMS_GRACE_S": "4",
        }
        stand_in = HashEmbeddingServicer() if model is None else None
        if stand_in is not None:
            embedding = await stack.enter_async_context(serve_in_process([stand_in.service()]))
        else:
            port = free_port()
            process = Process(
                name="embedding",
                command=("embedding",),
                env=common
                | {
                    "AGENTTEAMS_PORT": str(port := free_port()),
                    "AGENTTEAMS_BUILTIN_EMBEDDING_DIR": str(model),
                },
                port=port,
                log=folder / "embedding.log",
            )
            stack.callback(process.kill)
            process.start()
            await process.ready()
            embedding = f"127.0.0.1:{port}"
        if store == "postgres":
            server = shared_postgres()
            url = server.url(await server.create())
        else:
            url = f"sqlite:///{folder / 'retrieval.db'}"
        env = common | {
            "AGENTTEAMS_MILVUS_URI": milvus_uri or milvus.uri,
            "AGENTTEAMS_EMBEDDING_TARGET": embedding,
            "AGENTTEAMS_DATABASE_URL": url,
            "AGENTTEAMS_AUTO_MIGRATE": "1",
            "AGENTTEAMS_BLOB_DIR": str(folder / "originals"),
            "AGENTTEAMS_INGEST_LEASE_S": str(LEASE_S),
            "AGENTTEAMS_INGEST_SWEEP_S": "2",
        }
        if model is not None:
            env["AGENTTEAMS_TOKENIZER_FILE"] = str(model / "tokenizer.json")

        def process_of(name: str, *arguments: str, **more: str) -> Process:
            port, metrics = free_port(), free_port()
            found = Process(
                name=name,
                command=("retrieval", *arguments),
                env=env | more | {"AGENTTEAMS_PORT": str(port), "AGENTTEAMS_METRICS_PORT": str(metrics)},
                port=port,
                metrics_port=metrics,
                log=folder / f"{name}.log",
            )
            stack.callback(found.kill)
            found.start()
            return found

        service = process_of("service", AGENTTEAMS_INGEST="false")
        await service.ready()  # it makes the tables
        indexers = [process_of(f"worker-{number}", "worker") for number in range(workers)]
        rpc = await stack.enter_async_context(rpc_as(f"127.0.0.1:{service.port}"))
        for worker in indexers:
            await worker.ready()
        yield IngestCluster(
            milvus=milvus,
            service=service,
            workers=indexers,
            client=RetrievalClient(rpc),
            database_url=url,
            embedding=stand_in,
        )
