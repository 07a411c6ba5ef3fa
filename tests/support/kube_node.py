"""A node without a kubelet: pods that are bound to it run and are ready, and go when they are deleted."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.models.core_v1 import NodeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, Pod
from lightkube.types import PatchType

from tests.support.kube import Cluster

_SIDE_BY_SIDE = 16


class FakeNode:
    """Marks pods as a kubelet would.

    Attributes:
        healthy: False: new pods run and are not ready.
        started: Names of the pods that it has started, in order.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.healthy = True
        self.started: list[str] = []
        self._cluster = cluster
        self._name = name
        self._places = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def run(self, ready: threading.Event) -> None:
        """Until it is cancelled."""
        config = KubeConfig.from_file(self._cluster.kubeconfig)
        async with contextlib.AsyncExitStack() as stack:
            client = AsyncClient(config=config)
            stack.push_async_callback(client.aclose)
            await self._register(client)
            ready.set()
            async with asyncio.TaskGroup() as group:
                fields: dict[str, Any] = {"spec.nodeName": self._name}
                while True:
                    with contextlib.suppress(ApiError):  # the watch has ended: begin another
                        async for _, pod in client.watch(Pod, namespace="*", fields=fields):
                            group.create_task(self._handle(client, pod))

    async def _register(self, client: AsyncClient) -> None:
        await client.create(Node(metadata=ObjectMeta(name=self._name), spec=NodeSpec()))
        size = {"cpu": "1000", "memory": "4000Gi", "pods": "20000", "ephemeral-storage": "4000Gi"}
        status: dict[str, Any] = {
            "capacity": size,
            "allocatable": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "", **_times()}],
        }
        await client.patch(Node.Status, self._name, {"status": status}, patch_type=PatchType.STRATEGIC)
        # Each new node has the taint not-ready, until a controller that does not run here takes it away.
        await client.patch(Node, self._name, {"spec": {"taints": None}}, patch_type=PatchType.MERGE)

    async def _handle(self, client: AsyncClient, pod: Pod) -> None:
        assert pod.metadata is not None
        name, namespace = str(pod.metadata.name), pod.metadata.namespace
        async with self._places:
            with contextlib.suppress(ApiError):  # gone meanwhile
                if pod.metadata.deletionTimestamp is not None:
                    await client.delete(Pod, name, namespace=namespace, grace_period=0)
                elif pod.status is None or pod.status.phase == "Pending":
                    self.started.append(name)
                    status = self._running(pod)
                    await client.patch(
                        Pod.Status, name, {"status": status}, namespace=namespace,
                        patch_type=PatchType.STRATEGIC,
                    )  # fmt: skip

    def _running(self, pod: Pod) -> dict[str, Any]:
        truth = "True" if self.healthy else "False"
        assert pod.spec is not None
        containers = [
            {"name": c.name, "image": c.image, "imageID": "fake", "ready": self.healthy, "restartCount": 0,
             "started": True, "state": {"running": {"startedAt": _now()}}}
            for c in pod.spec.containers
        ]  # fmt: skip
        kinds = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": truth, "Ready": truth}
        return {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "startTime": _now(),
            "containerStatuses": containers,
            "conditions": [{"type": k, "status": s, "lastTransitionTime": _now()} for k, s in kinds.items()],
        }


@contextmanager
def fake_node(cluster: Cluster, name: str = "fake") -> Iterator[FakeNode]:
    """A node for the block."""
    node = FakeNode(cluster, name)
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def live() -> None:
        task = asyncio.ensure_future(node.run(ready))
        try:
            while not stop.is_set():
                await asyncio.wait([task], timeout=0.2)
                if task.done():
                    task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def body() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001  told to the test below
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert ready.wait(20)
        yield node
    finally:
        stop.set()
        thread.join(20)
        cluster.kubectl("delete", "node", name, "--wait=false")
    assert not failures, failures


def _times() -> dict[str, str]:
    return {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
