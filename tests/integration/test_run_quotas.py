"""The quota of a namespace's runs: from the annotation to the refusal, and who may set it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from agentteams.session.v1 import quota_pb2, run_pb2
from agentteams.session.v1.quota_pb2_grpc import QuotaServiceStub

from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, PermissionDenied, ResourceExhausted
from servicekit.identity import IdentityKey
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from session.adapters.quota_rows import REFUSED
from session.adapters.store import SqlSessionStore
from session.quota_servicer import QuotaServicer, quota_service
from session.servicer import SessionServicer, session_service
from tests.integration.test_operator_teams import team
from tests.integration.test_orchestrators import MANIFESTS
from tests.support.kube import Cluster
from tests.support.model_server import ModelServer, Reply
from tests.support.operator_process import fake_endpoint, model, running_operator
from tests.support.replicas import Fleet, Replica
from tests.support.sessions import opened
from tests.support.stack import until

LIMIT, ASKED = 5, 50
NOTE = "agentteams.dev/max-concurrent-runs"
pytestmark = pytest.mark.slow


@dataclass
class World:
    """Two orchestrators of one namespace with two teams, over one session service on Postgres."""

    fleet: Fleet
    session: str
    store: SqlSessionStore

    async def ask(self, n: int) -> run_pb2.Run | ResourceExhausted:
        replica: Replica = self.fleet.replicas[n % 2]
        try:
            return await replica.start(f"Question {n}?", team=("solo", "other")[n // 2 % 2])
        except ResourceExhausted as refused:
            return refused

    async def asked(self, count: int) -> tuple[list[run_pb2.Run], list[ResourceExhausted]]:
        """All at once: those that began, and the refusals."""
        answers = await asyncio.gather(*(self.ask(n) for n in range(count)))
        begun = [one for one in answers if isinstance(one, run_pb2.Run)]
        return begun, [one for one in answers if isinstance(one, ResourceExhausted)]

    async def end(self, runs: Sequence[run_pb2.Run]) -> None:
        for run in runs:
            await self.fleet.replicas[0].cancel(run)
        for run in runs:
            async for _ in self.fleet.replicas[0].follow(run):
                pass

    async def told(self, namespace: str, most: int | None) -> None:
        """Waits until the session service knows."""

        async def known() -> bool:
            quota = await self.store._quota_of(namespace)
            return (None if quota is None else quota.most) == most

        await until(known, within_s=40, what=f"the quota is {most}")


@pytest.fixture
async def world(namespace: str, tmp_path: Path) -> AsyncIterator[World]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    text = MANIFESTS.replace("metadata: {name", f"metadata: {{namespace: {namespace}, name")
    second = text.rpartition("---")[2].replace("solo", "other")
    (manifests / "all.yaml").write_text(f"{text}---{second}")
    async with AsyncExitStack() as stack:
        databases = await stack.enter_async_context(
            opened("postgres", file=tmp_path / "unused", template=tmp_path / "unused")
        )
        answers = await stack.enter_async_context(ModelServer(scenario="answer"))
        answers.script(lambda _: Reply("Yes.", gate=asyncio.Event()))  # no run ends by itself
        store = SqlSessionStore(database=databases.plain, clock=SystemClock(), new_id=new_id)
        services = [
            session_service(SessionServicer(store=store, tokens=PageTokens(TEST_KEY))),
            quota_service(QuotaServicer(store=store)),
        ]
        session = await stack.enter_async_context(serve_in_process(services))
        fleet = Fleet(stack=stack, session=session, model=answers, manifests=manifests)
        stack.enter_context(scope(caller=Caller(namespace, "ada")))
        for _ in range(2):
            await fleet.begin()
        yield World(fleet=fleet, session=session, store=store)


@pytest.mark.timeout(180)  # a process that starts on a busy machine
async def test_the_annotation_of_a_namespace_bounds_its_runs_and_a_change_needs_no_restart(
    cluster: Cluster, namespace: str, world: World, tmp_path: Path
) -> None:
    async def annotate(value: str) -> None:
        note = f"{NOTE}={value}" if value else f"{NOTE}-"
        await asyncio.to_thread(cluster.kubectl, "annotate", "--overwrite", "namespace", namespace, note)

    await annotate(str(LIMIT))
    with fake_endpoint() as endpoint, running_operator(
        cluster, tmp_path, namespaces=[namespace], lease_namespace=namespace, key=TEST_KEY.to_file(),
        session_target=world.session, quotas='{"concurrent-runs": 7}',
    ) as operator:  # fmt: skip
        await asyncio.to_thread(cluster.apply, model(endpoint), team("solo"), namespace=namespace)
        await world.told(namespace, LIMIT)
        counted = REFUSED.labels(namespace)._value.get()
        begun, refused = await world.asked(ASKED)
        assert (len(begun), len(refused)) == (LIMIT, ASKED - LIMIT)
        assert REFUSED.labels(namespace)._value.get() - counted == ASKED - LIMIT
        for error in refused:
            assert (error.reason, error.retry_after) == ("QUOTA_EXHAUSTED", timedelta(seconds=2))
            assert error.metadata["limit"] == str(LIMIT)
            assert f"its quota is {LIMIT} (the annotation {NOTE} of the Namespace)" in error.message
        await annotate(str(LIMIT + 1))
        await world.told(namespace, LIMIT + 1)
        more, refused = await world.asked(4)
        assert (len(more), refused[0].metadata["active"]) == (1, str(LIMIT + 1))
        await world.end(begun)
        again, _ = await world.asked(ASKED)  # what was cancelled has freed its places
        assert len(again) == LIMIT
        await annotate("")
        await world.told(namespace, 7)
        last, refused = await world.asked(4)
        assert len(last) == 1
        assert "of the installation's quotas" in refused[0].message
        await world.end([*more, *again, *last])
        assert "Traceback" not in operator.log


async def test_nobody_who_holds_a_tenants_key_lifts_its_quota(world: World, namespace: str) -> None:
    async def put(name: str, key: IdentityKey = TEST_KEY, tenant: str = "", service: str = "operator") -> str:
        quota = quota_pb2.RunQuota(name=name, max_concurrent_runs=3, source="a test")
        async with rpc_as(world.session, tenant=tenant, user="", service=service, key=key) as rpc:
            request = quota_pb2.UpdateRunQuotaRequest(quota=quota)
            return (await rpc.unary(QuotaServiceStub(rpc.channel).UpdateRunQuota, request)).name

    own = f"tenants/{namespace}/runQuota"
    with pytest.raises(PermissionDenied):
        await put(own, key=TEST_KEY.of_tenant(namespace), tenant=namespace)
    with pytest.raises(PermissionDenied):
        await put(own, tenant=namespace)
    with pytest.raises(PermissionDenied):
        await put(own, service="orchestrator")
    await world.told(namespace, None)
    for wrong in ("", "tenants//runQuota", f"tenants/{namespace}", f"teams/{namespace}/runQuota"):
        with pytest.raises(InvalidArgument):
            await put(wrong)
    assert await put(own) == own
    await world.told(namespace, 3)
