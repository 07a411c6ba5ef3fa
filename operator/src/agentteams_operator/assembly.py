"""The process, put together."""

import os
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from lightkube import AsyncClient

from agentteams_operator.adapters.endpoints import EndpointProbes
from agentteams_operator.adapters.kubernetes import Kubernetes
from agentteams_operator.adapters.lease import LeaderLease
from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.models import Models
from agentteams_operator.core.objects import MODEL
from agentteams_operator.core.queue import WorkQueue
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.reconciler import Reconciler
from agentteams_operator.handlers.watches import Watches
from agentteams_operator.settings import Settings
from servicekit.clock import SystemClock
from servicekit.ids import new_id
from servicekit.server import Assembly

LEASE = "agentteams-operator"


async def assemble(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Puts the process together; the stack closes what it opened."""
    clock = SystemClock()
    identity = f"{socket.gethostname()}-{os.getpid()}-{new_id()}"
    client = AsyncClient(lazy=False)
    stack.push_async_callback(client.aclose)
    api = Kubernetes(client, identity=identity)
    queue = WorkQueue()
    cache = Cache(queue.add)
    reader = Reader(cache.get)
    models = Models(cache=cache, reader=reader, api=api, endpoints=EndpointProbes(), clock=clock)
    reconciler = Reconciler(
        cache=cache,
        queue=queue,
        applier=Applier(api=api, cache=cache),
        looks={MODEL: models.look},
        workers=settings.workers,
    )
    watches = Watches(cache=cache, namespaces=settings.namespaces)
    lease = LeaderLease(
        client,
        name=LEASE,
        namespace=settings.lease_namespace,
        identity=identity,
        lease=timedelta(seconds=settings.lease_s),
        renew_every=timedelta(seconds=settings.lease_s / 5),
        give_up=timedelta(seconds=settings.lease_s * 2 / 3),
    )

    async def lead() -> None:
        await watches.synced()
        await lease.hold(reconciler.work)

    return Assembly(services=[], tasks=[watches.run, lead])
