"""The examples of each mode over HTTP and gRPC: they do what their golden histories say, in any order."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from manifests import Catalogue
from manifests.endpoints import ModelEndpoint, SecretFiles
from orchestrator.adapters.models import EndpointModels
from orchestrator.adapters.session_client import SessionClient
from orchestrator.core.model import Event, InputRequested, Message, RunFinished, RunStarted, StoredEvent
from orchestrator.core.runs import Runs
from orchestrator.core.turn import World
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.identity import TokenIssuer
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.servicer import SessionServicer, session_service
from tests.support import scenes_modes, scenes_workflow
from tests.support.fake_knowledge import FakeEmbedder, FakeKnowledge
from tests.support.golden import Scene, golden_events, steps, task_lists
from tests.support.model_server import ModelServer
from tests.support.orchestrator_fakes import FakePeers, flat


@asynccontextmanager
async def orchestrator(scene: Scene, folder: Path) -> AsyncIterator[Runs]:
    """An orchestrator with a real session service (SQLite) and a model behind HTTP."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer())
        model.script(scene.script)
        models = EndpointModels(
            built_in=ModelEndpoint(url=model.base_url, api_key="", model="stand-in"),
            secrets=SecretFiles(None),
        )
        stack.push_async_callback(models.close)
        limits = PoolLimits(connections=4, timeout=timedelta(seconds=2))
        database = open_database(f"sqlite:///{folder / 'session.db'}", limits)
        stack.push_async_callback(database.close)
        await migrate(database)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
        target = await stack.enter_async_context(serve_in_process([session_service(servicer)]))
        channel = open_channel(target)
        stack.push_async_callback(channel.close)
        rpc = RpcClient(
            channel,
            issuer=TokenIssuer(TEST_KEY, service="orchestrator"),
            default_timeout=timedelta(seconds=10),
        )
        runs = Runs(
            world=World(
                catalogue=cast(Catalogue, scene.catalogue()),
                models=models,
                knowledge=FakeKnowledge(results=[scene.found()]),
                embedder=FakeEmbedder(),
            ),
            store=SessionClient(rpc, owner="orchestrator-1", address="", lease=timedelta(seconds=3)),
            peers=FakePeers(),
            clock=SystemClock(),
        )
        work = asyncio.create_task(runs.work())
        await asyncio.sleep(0)
        try:
            yield runs
        finally:
            work.cancel()
            await asyncio.wait([work])


SCENES = [*scenes_modes.SCENES, *scenes_workflow.SCENES]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_an_example_does_over_the_wire_what_its_history_says(scene: Scene, tmp_path: Path) -> None:
    golden = golden_events(scene)
    with scope(caller=Caller("default", "ada")):
        async with orchestrator(scene, tmp_path) as runs, asyncio.timeout(30):
            row = await runs.start(
                team_name=f"teams/{scene.team}",
                session="",
                messages=[Message(role="user", content=scene.question)],
                request_id=str(uuid.uuid4()),
                on_busy="REJECT",
            )
            items: list[Any] = []
            async for item in flat(runs.follow(row.name, after=0)):
                items.append(item)
                if isinstance(item, Event | StoredEvent) and isinstance(item.step, InputRequested):
                    (said,) = [said for said in scene.people if said.call_id == item.step.call_id]
                    await runs.provide(row.name, said)
    log = [
        Event(sequence=item.sequence, time=item.time, member=item.member, step=item.step)
        for item in items
        if isinstance(item, Event | StoredEvent) and item.step is not None
    ]
    assert isinstance(log[0].step, RunStarted)
    assert steps(log) == steps(golden)
    assert {path: of[-1] for path, of in task_lists(log).items()} == {
        path: of[-1] for path, of in task_lists(golden).items()
    }
    end = log[-1].step
    assert isinstance(end, RunFinished)
    assert end.state == "SUCCEEDED"
