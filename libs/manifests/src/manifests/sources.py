"""Where a service's manifests come from: a folder, or the cluster."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from manifests.catalogue import Catalogue
from manifests.cluster import ALL_KINDS, ClusterCatalogue
from manifests.objects import Objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Manifests, and what keeps them up to date.

    Attributes:
        objects: What is known.
        watch: Follows it for ever; to be run as a task.
        ready: Returns when nothing is missing merely because it has not come yet.
    """

    objects: Objects
    watch: Callable[[], Awaitable[None]]
    ready: Callable[[], Awaitable[None]]


def folder_source(folder: Path, *, python_tools: bool = False) -> Source:
    """A folder's, read now."""
    catalogue = Catalogue(folder, python_tools=python_tools)
    catalogue.load()
    return Source(objects=catalogue, watch=catalogue.watch, ready=_at_once)


def cluster_source(
    stack: AsyncExitStack,
    *,
    namespace: str | None,
    kinds: Sequence[str] = ALL_KINDS,
    secrets_dir: Path | None = None,
) -> Source:
    """The cluster's that this process runs in, or that KUBECONFIG names. The stack ends the connections.

    Args:
        namespace: None: of every namespace.
        secrets_dir: As of ClusterCatalogue.
    """
    from manifests.kubernetes_feed import KubernetesFeed  # noqa: PLC0415  local mode has no need of it

    feed = KubernetesFeed(namespace)
    stack.push_async_callback(feed.close)
    catalogue = ClusterCatalogue(feed, kinds=kinds, secrets_dir=secrets_dir)
    return Source(objects=catalogue, watch=catalogue.watch, ready=catalogue.synced)


async def _at_once() -> None:
    """A folder is read before the process starts."""
