"""The process, put together."""

import os
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from lightkube import AsyncClient
from prometheus_client import REGISTRY

from agentteams_operator.adapters.endpoints import EndpointProbes
from agentteams_operator.adapters.golden_sets import SessionGoldenSets
from agentteams_operator.adapters.kubernetes import Kubernetes
from agentteams_operator.adapters.lease import LeaderLease
from agentteams_operator.adapters.retrieval import RetrievalKnowledge
from agentteams_operator.adapters.session import SessionLimits, SessionScores
from agentteams_operator.core import metrics
from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.credentials import Credentials
from agentteams_operator.core.decide.model_config import PROBE_S
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.knowledge import KnowledgeBases
from agentteams_operator.core.models import Models
from agentteams_operator.core.objects import (
    CREDENTIALS,
    KNOWLEDGE,
    MODEL,
    OURS,
    POOL,
    SHARED_MODELS,
    TEAM,
    Key,
    Stored,
)
from agentteams_operator.core.queue import WorkQueue
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.reconciler import Reconciler
from agentteams_operator.core.run_quotas import RunQuotas
from agentteams_operator.core.served import Served
from agentteams_operator.core.shared_models import SharedModels
from agentteams_operator.core.team_golden_sets import GoldenTeams
from agentteams_operator.core.team_quality import WatchedTeams
from agentteams_operator.core.teams import Teams
from agentteams_operator.core.texts import Texts
from agentteams_operator.handlers.watches import Watches
from agentteams_operator.settings import Settings
from agentteams_operator.specs.settings import PoolSettings
from servicekit.calls import CallKey
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import TokenIssuer, load_key
from servicekit.ids import new_id
from servicekit.server import Assembly

LEASE = "agentteams-operator"
POOL_PAUSE_S = 0.5
SHARED_PAUSE_S = 0.1
_CALL = timedelta(seconds=10)


async def assemble(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Puts the process together; the stack closes what it opened."""
    clock = SystemClock()
    identity = f"{socket.gethostname()}-{os.getpid()}-{new_id()}"
    client = AsyncClient(lazy=False)
    stack.push_async_callback(client.aclose)
    api = Kubernetes(client, identity=identity)
    queue = WorkQueue()

    def changed(key: Key) -> None:
        # One look at a pool is a look at all teams of its namespace: not one for each of a thousand.
        if key.kind in (POOL, CREDENTIALS):
            queue.add_after(key, POOL_PAUSE_S)
        elif key.kind == SHARED_MODELS:
            queue.add_after(key, SHARED_PAUSE_S)  # before the pool, whose pods mount it
        else:
            queue.add(key)

    cache = Cache(changed)
    reader = Reader(cache.get)

    watches = Watches(cache=cache, namespaces=settings.namespaces, silent_s=settings.watch_silent_s)

    def kind_changed(kind: str, there: bool) -> None:
        watches.expect(kind, there=there)
        if not there:  # its watch may have ended before it could say what went with it
            cache.retain(kind, "", (), 0)
        for key in cache.everything():
            changed(key)

    served = Served(api=api, clock=clock, changed=kind_changed)
    models = Models(
        cache=cache, reader=reader, api=api, endpoints=EndpointProbes(), clock=clock,
        probe_s=min(settings.resync_s, PROBE_S),
    )  # fmt: skip
    key = load_key(settings.identity_key_file)
    quotas = Quotas(cache=cache, defaults=settings.quotas)
    teams = Teams(
        cache=cache,
        reader=reader,
        texts=Texts(cache=cache, api=api),
        quotas=quotas,
        settings=PoolSettings(
            image=settings.orchestrator_image,
            environment=settings.orchestrator_environment,
            pull_policy=settings.orchestrator_pull_policy,
            replicas=settings.pool_replicas,
            max_replicas=settings.pool_max_replicas,
            system_namespace=settings.system_namespace,
            scaler=settings.pool_scaler,
            prometheus_url=settings.prometheus_url,
            network=settings.pool_network,
        ),
        served=served,
        tenant_key=lambda tenant, *, calls_of="": (
            CallKey.of(key, owner=calls_of, home=tenant).to_file()
            if calls_of
            else key.of_tenant(tenant).to_file()
        ),
        clock=clock,
    )
    issuer = TokenIssuer(key, service="operator")

    def client_of(target: str) -> RpcClient:
        channel = open_channel(target)
        stack.push_async_callback(channel.close)
        return RpcClient(channel, issuer=issuer, default_timeout=_CALL)

    session = client_of(settings.session_target)
    watched = WatchedTeams(
        look=teams.look,
        scores=SessionScores(session),
        golden=GoldenTeams(find=cache.get, config_maps=api, sets=SessionGoldenSets(session)),
        clock=clock,
    )
    pools = RunQuotas(
        look=teams.look_at_pool, cache=cache, quotas=quotas, limits=SessionLimits(session), clock=clock
    )
    retrieval = RetrievalKnowledge(client_of(settings.retrieval_target))
    knowledge = KnowledgeBases(
        cache=cache,
        reader=reader,
        quotas=quotas,
        knowledge=retrieval,
        golden_sets=GoldenSets(find=cache.get, config_maps=api, knowledge=retrieval),
        clock=clock,
    )
    credentials = Credentials(cache=cache, api=api, namespace=settings.system_namespace)
    reconciler = Reconciler(
        cache=cache,
        queue=queue,
        applier=Applier(api=api, cache=cache),
        looks={
            MODEL: models.look,
            KNOWLEDGE: knowledge.look,
            TEAM: watched.look,
            POOL: pools.look,
            CREDENTIALS: credentials.look,
            SHARED_MODELS: SharedModels(cache=cache, api=api).look,
        },
        workers=settings.workers,
        resync_s=settings.resync_s,
    )
    lease = LeaderLease(
        client,
        name=LEASE,
        namespace=settings.lease_namespace,
        identity=identity,
        lease=timedelta(seconds=settings.lease_s),
        renew_every=timedelta(seconds=settings.lease_s / 5),
        give_up=timedelta(seconds=settings.lease_s * 2 / 3),
    )

    def ours() -> list[Stored]:
        return [one for key in cache.keys(*OURS) if (one := cache.get(key)) is not None]

    state = metrics.State(objects=ours, waiting=lambda: len(queue), retrying=lambda: queue.retrying)
    REGISTRY.register(state)
    stack.callback(REGISTRY.unregister, state)

    async def work() -> None:
        with metrics.LEADER.track_inprogress():
            await reconciler.work()

    async def lead() -> None:
        await watches.synced()
        await lease.hold(work)

    return Assembly(services=[], ready=watches.synced, tasks=[watches.run, served.follow, lead])
