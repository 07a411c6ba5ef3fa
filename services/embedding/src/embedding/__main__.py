"""`python -m embedding`: the service as a process."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from embedding.adapters.factory import Factory, RerankFactory
from embedding.core.embedding import Embedding
from embedding.core.models import Models, Rerankers
from embedding.core.reranking import Reranking
from embedding.servicer import rerank_service, service
from embedding.settings import Settings
from manifests import Source, cluster_source, folder_source
from manifests.endpoints import SecretFiles
from servicekit.server import Assembly, run


async def build(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Loads the built-in model and the manifests."""
    manifests = _manifests(settings, stack)
    secrets = SecretFiles(settings.secrets_dir, by_namespace=settings.manifests_cluster)
    configs = None if manifests is None else manifests.objects
    threads, max_queued_texts = settings.embedding_threads, settings.embedding_max_queued_texts
    bounds = {"threads": threads, "max_queued_texts": max_queued_texts}
    models = Models(
        builtin=settings.builtin(),
        configs=configs,
        secrets=secrets,
        open_embedder=Factory(gather=timedelta(milliseconds=settings.embedding_gather_ms), **bounds),
    )
    stack.push_async_callback(models.aclose)
    rerankers = Rerankers(
        builtin=settings.builtin_rerank(),
        configs=configs,
        secrets=secrets,
        open_embedder=RerankFactory(**bounds),
    )
    stack.push_async_callback(rerankers.aclose)
    await models.warm_up()
    await rerankers.warm_up()
    return Assembly(
        services=[
            service(Embedding(models=models, cache_bytes=settings.embedding_cache_bytes)),
            rerank_service(Reranking(models=rerankers)),
        ],
        ready=None if manifests is None else manifests.ready,
        tasks=[] if manifests is None else [manifests.watch],
    )


def _manifests(settings: Settings, stack: AsyncExitStack) -> Source | None:
    if settings.manifests_cluster:
        return cluster_source(stack, namespace=None, kinds=("ModelConfig",))
    return None if settings.manifests_dir is None else folder_source(settings.manifests_dir)


def main() -> None:
    """Runs until SIGTERM."""
    settings = Settings()
    run(settings, name="embedding", build=partial(build, settings))


if __name__ == "__main__":
    main()
