"""All services with two orchestrators, on Postgres or SQLite, under the stack's own supervision."""

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg

from agentteams_cli.ports import HOST, Port
from agentteams_cli.services import plan
from agentteams_cli.stack import Endpoint, ServiceSpec, Stack, StackConfig
from servicekit.client import RpcClient, open_channel
from servicekit.identity import TokenIssuer, load_key
from tests.chaos.asking import MANIFEST, ask_first
from tests.support.cutting_proxy import CuttingProxy
from tests.support.model_server import ModelServer
from tests.support.ports import free_port
from tests.support.postgres import Postgres, temporary_postgres
from tests.support.stack import MODELS, LiveStack, knowledge_base, running_stack, stack_ports, team

SECOND = "orchestrator-2"
ORCHESTRATORS = ("orchestrator", SECOND)
TEAMS = ("solo", "pair")
# `maxConcurrentRuns` is not what is tried here; a queue of a session is.
_DOCUMENTS = {
    "leave.md": b"# Leave\n\nEvery employee has thirty days of paid leave a year.\n",
    "travel.md": b"# Travel\n\nTrain tickets: ask our travel desk, room 4711.\n",
}
__all__ = ["ORCHESTRATORS", "SECOND", "TEAMS", "Cluster", "running_cluster", "running_stack"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the traffic talks to and the faults hurt."""

    live: LiveStack
    model: ModelServer
    postgres: Postgres | None
    database: str
    """The session service's, in `postgres`."""
    proxy: CuttingProxy | None
    """Between the session service and `postgres`."""
    issuer: TokenIssuer
    events: list[tuple[float, str, str]]
    """(time, service, state) as the supervision reports them."""

    def pid(self, service: str) -> int:
        """0 while it does not run."""
        return self.live.stack.services[service].pid

    @asynccontextmanager
    async def rpc(self, service: str) -> AsyncIterator[RpcClient]:
        """A client of one service; the caller is the current scope's."""
        channel = open_channel(f"{HOST}:{self.live.stack.services[service].port}")
        try:
            yield RpcClient(channel, issuer=self.issuer, default_timeout=timedelta(seconds=5))
        finally:
            await channel.close()

    async def sql(self, *statements: str) -> None:
        """Runs statements in the session service's database, as nobody whom a policy holds."""
        server = self.postgres
        if server is None:
            raise RuntimeError("there is no Postgres in this cluster")
        connection = await asyncpg.connect(
            host=HOST, port=server.port, user="postgres", database=self.database, timeout=5
        )
        try:
            for statement in statements:
                await connection.execute(statement, timeout=5)
        finally:
            await connection.close(timeout=5)

    async def restart_postgres(self, *, kill: bool, down_s: float) -> None:
        """Ends Postgres (by SIGKILL to all of it, or in an orderly way) and starts it again."""
        server = self.postgres
        if server is None:
            raise RuntimeError("there is no Postgres in this cluster")
        if kill:
            pid = int((server.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        else:
            await asyncio.to_thread(server.stop, "fast")
        await asyncio.sleep(down_s)  # how long it is gone is part of the fault
        for attempt in range(20):
            try:
                await asyncio.to_thread(server.start)
            except RuntimeError:
                # Its orphans notice the end of their parent, and let go of the memory, within a moment.
                if attempt == 19:
                    raise
                await asyncio.sleep(0.5)
            else:
                return


def two_orchestrators(
    session_url: str | None,
) -> Callable[[StackConfig, Mapping[str, Port]], Sequence[ServiceSpec]]:
    """The usual plan, with another orchestrator, and with the session's database where it is wanted."""

    def planned(config: StackConfig, ports: Mapping[str, Port]) -> list[ServiceSpec]:
        specs = []
        for spec in plan(config, ports):
            if spec.name == "session" and session_url is not None:
                env = {**spec.env, "AGENTTEAMS_SESSION_DATABASE_URL": session_url}
                specs.append(dataclasses.replace(spec, env=env))
                continue
            specs.append(spec)
            if spec.name == "orchestrator":
                specs.append(_second(spec))
        return specs

    return planned


def _second(first: ServiceSpec) -> ServiceSpec:
    port = Port(port=free_port(), metrics=free_port())
    own = {
        "AGENTTEAMS_PORT": str(port.port),
        "AGENTTEAMS_METRICS_PORT": str(port.metrics),
    }
    address = f"{HOST}:{first.port.port}"
    moved = {k: f"{HOST}:{port.port}" for k, v in first.env.items() if v == address}
    return dataclasses.replace(first, name=SECOND, port=port, env={**first.env, **moved, **own})


@asynccontextmanager
async def running_cluster(folder: Path, *, store: str, chunk_delay_s: float) -> AsyncIterator[Cluster]:
    """Everything up, two teams ready, two documents indexed.

    Args:
        folder: For the state; empty.
        store: sqlite or postgres.
        chunk_delay_s: Between the pieces of the stand-in model's answers.
    """
    events: list[tuple[float, str, str]] = []
    async with AsyncExitStack() as exits:
        model = await exits.enter_async_context(ModelServer(chunks=16))
        postgres: Postgres | None = None
        proxy: CuttingProxy | None = None
        url, database = None, ""
        if store == "postgres":
            postgres = exits.enter_context(temporary_postgres())
            database = await postgres.create()
            proxy = await exits.enter_async_context(CuttingProxy(postgres.port))
            url = postgres.url(database).replace(f":{postgres.port}/", f":{proxy.port}/")
        chat = Endpoint(url=model.base_url, model="stand-in")
        config = StackConfig(
            state_dir=folder,
            chat=chat,
            embedding=chat,
            ports=stack_ports(),
            start_timeout_s=90.0,
        )
        stack = Stack(config, make_plan=two_orchestrators(url))
        await stack.start(lambda service, state, _: events.append((time.time(), service, state)))
        exits.push_async_callback(stack.stop)
        issuer = TokenIssuer(load_key(stack.state.identity_key), service="test")
        channel = open_channel(f"{HOST}:{stack.services['retrieval'].port}")
        exits.push_async_callback(channel.close)
        rpc = RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=30))
        live = LiveStack(stack=stack, rpc=rpc, exits=exits)
        await live.apply(
            MODELS,
            knowledge_base("docs"),
            team("solo", "clerk", knowledge="docs"),
            team("pair", "analyst", "writer", knowledge="docs", search="Always"),
            MANIFEST,
        )
        await live.ingest("docs", _DOCUMENTS)
        model.chunk_delay_s = chunk_delay_s
        model.script(ask_first)
        yield Cluster(
            live=live,
            model=model,
            postgres=postgres,
            database=database,
            proxy=proxy,
            issuer=issuer,
            events=events,
        )
