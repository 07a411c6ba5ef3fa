"""`python -m embedding`: the service as a process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from embedding.adapters.catalogue import CatalogueSpecs
from embedding.adapters.factory import Factory
from embedding.adapters.secrets import FileSecrets
from embedding.core.embedding import Embedding
from embedding.core.models import Models
from embedding.servicer import service
from embedding.settings import Settings
from manifests import Catalogue
from servicekit.server import Assembly, run


async def build(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Loads the built-in model and the manifests."""
    catalogue = None if settings.manifests_dir is None else Catalogue(settings.manifests_dir)
    factory = Factory(
        threads=settings.embedding_threads,
        max_queued_texts=settings.embedding_max_queued_texts,
        gather=timedelta(milliseconds=settings.embedding_gather_ms),
    )
    models = Models(
        builtin=settings.builtin(),
        specs=None if catalogue is None else CatalogueSpecs(catalogue),
        secrets=FileSecrets(settings.secrets_dir),
        open_embedder=factory,
    )
    stack.push_async_callback(models.aclose)
    if catalogue is not None:
        await asyncio.to_thread(catalogue.load)
    await models.warm_up()
    return Assembly(
        services=[service(Embedding(models=models, cache_bytes=settings.embedding_cache_bytes))],
        tasks=[] if catalogue is None else [catalogue.watch],
    )


def main() -> None:
    """Runs until SIGTERM."""
    settings = Settings()
    run(settings, name="embedding", build=partial(build, settings))


if __name__ == "__main__":
    main()
