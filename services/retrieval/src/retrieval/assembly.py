"""Puts the service together: adapters -> core -> servicer."""

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from agentteams.retrieval.v1.retrieval_service_pb2 import DESCRIPTOR
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import add_RetrievalServiceServicer_to_server

from retrieval import metrics
from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.doomed_blobs import SqlDoomedBlobs
from retrieval.adapters.embedding_client import EmbeddingClient
from retrieval.adapters.golden_sets import SqlGoldenSets
from retrieval.adapters.known_blobs import SqlKnownBlobs
from retrieval.adapters.local_folders import LocalFolders
from retrieval.adapters.migrate import migrate
from retrieval.adapters.milvus import MilvusStore
from retrieval.adapters.parser_process import ParserProcesses
from retrieval.adapters.quality_rows import SqlQuality
from retrieval.adapters.rerank_client import RerankClient
from retrieval.adapters.sources import SqlSources
from retrieval.adapters.specs import SqlSpecs
from retrieval.assembly_tuning import assemble_tuning
from retrieval.core.coverage import Coverage
from retrieval.core.directory import Directory
from retrieval.core.documents import Documents
from retrieval.core.evaluation import Evaluations
from retrieval.core.ingest import IngestWorker
from retrieval.core.knowledge_bases import KnowledgeBases
from retrieval.core.lookup import Lookup
from retrieval.core.original_sweep import OriginalSweep
from retrieval.core.originals import Originals
from retrieval.core.quality_worker import QualityLimits, QualityWorker
from retrieval.core.reconciling import Reconciler
from retrieval.core.reranking import Reranking
from retrieval.core.search import Search
from retrieval.core.sources import Sources
from retrieval.core.tokens import token_counter
from retrieval.core.upkeep import DocumentUpkeep
from retrieval.servicer import RetrievalServicer
from retrieval.settings import Settings
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import TokenIssuer, load_key
from servicekit.paging import PageTokens
from servicekit.server import Assembly, Service


async def assemble(settings: Settings, stack: AsyncExitStack, *, serve: bool = True) -> Assembly:
    """Everything that runs in the process; what must be closed is put on the stack.

    Args:
        serve: False: the worker alone, without the service.
    """
    token_counter(settings.tokenizer_file)  # a wrong file stops the start, not every document
    key = load_key(settings.identity_key_file)
    engine = new_engine(settings.database_url.get_secret_value())
    stack.push_async_callback(engine.dispose)
    if settings.auto_migrate:
        await migrate(engine)
    clock = SystemClock()
    catalogue = SqlCatalogue(engine)
    store = MilvusStore(
        uri=settings.milvus_uri,
        token=settings.milvus_token.get_secret_value(),
        timeout_s=settings.milvus_timeout_s,
    )
    stack.push_async_callback(store.close)
    channel = open_channel(settings.embedding_target)
    stack.push_async_callback(channel.close)
    rpc = RpcClient(
        channel, issuer=TokenIssuer(key, service="retrieval"), default_timeout=timedelta(seconds=10)
    )
    embedder = EmbeddingClient(rpc)
    stored = settings.blobs()
    blobs = Originals(blobs=stored, doomed=SqlDoomedBlobs(engine))
    original_sweep = OriginalSweep(blobs=stored, known=SqlKnownBlobs(engine), clock=clock)
    parser = ParserProcesses(
        timeout=timedelta(seconds=settings.parse_timeout_s),
        memory_mb=settings.parse_memory_mb,
        max_chunks=settings.max_chunks_per_document,
        tokenizer_file=settings.tokenizer_file,
    )
    stack.push_async_callback(parser.close)
    directory = Directory(
        catalogue=catalogue, clock=clock, time_to_live=timedelta(seconds=settings.snapshot_ttl_s)
    )
    worker = IngestWorker(
        catalogue=catalogue,
        store=store,
        embedder=embedder,
        blobs=blobs,
        parser=parser,
        directory=directory,
        clock=clock,
        limits=settings.ingest_limits(),
    )
    knowledge_bases = KnowledgeBases(
        catalogue=catalogue,
        specs=SqlSpecs(engine),
        store=store,
        embedder=embedder,
        blobs=blobs,
        directory=directory,
        clock=clock,
        queued=worker.wake,
    )
    documents = Documents(
        catalogue=catalogue,
        store=store,
        blobs=blobs,
        directory=directory,
        clock=clock,
        max_bytes=settings.max_document_bytes,
        uploaded=worker.wake,
    )
    reconciler = Reconciler(
        catalogue=catalogue,
        store=store,
        ensure_collection=knowledge_bases.ensure_collection,
        directory=directory,
        clock=clock,
        interval=timedelta(hours=settings.reconcile_hours),
    )
    source_store = SqlSources(engine)
    sources = Sources(
        store=source_store, folders=LocalFolders(settings.source_root), documents=documents, clock=clock
    )
    tuning = assemble_tuning(
        settings, engine, catalogue=catalogue, store=store, directory=directory, clock=clock
    )
    new_search = partial(
        Search,
        directory=directory,
        store=store,
        lookup=Lookup(
            store=store,
            embedder=embedder,
            hybrid_budget=timedelta(seconds=settings.hybrid_budget_s),
            embedding_timeout=timedelta(seconds=settings.embedding_query_timeout_s),
        ),
        reranking=Reranking(
            reranker=RerankClient(rpc), clock=clock, timeout=timedelta(seconds=settings.rerank_timeout_s)
        ),
        coverage=Coverage(store=store, catalogue=catalogue, clock=clock),
    )
    search = new_search(asked=tuning.sampler.offer)
    quality = SqlQuality(engine)
    evaluations = Evaluations(
        catalogue=catalogue,
        golden_sets=SqlGoldenSets(engine),
        quality=quality,
        search=new_search(),  # a golden set is not what users ask: no sample of it
        clock=clock,
    )
    quality_worker = QualityWorker(
        catalogue=catalogue,
        quality=quality,
        evaluations=evaluations,
        clock=clock,
        limits=QualityLimits(poll=timedelta(seconds=settings.quality_poll_s)),
        seen=metrics.QualityGauges().seen,
    )
    servicer = RetrievalServicer(
        knowledge_bases=knowledge_bases,
        documents=documents,
        search=search,
        evaluations=evaluations,
        upkeep=DocumentUpkeep(
            catalogue=catalogue,
            reconciler=reconciler,
            directory=directory,
            clock=clock,
            queued=worker.wake,
        ),
        sources=source_store,
        indexes=tuning.indexes,
        page_tokens=PageTokens(key),
    )

    async def ready() -> None:
        await catalogue.check()
        await store.connect()

    async def ingest() -> None:
        await worker.run(sweeps=[knowledge_bases.sweep, documents.sweep, blobs.sweep])

    async def drain() -> None:
        tuning.worker.stop()
        quality_worker.stop()
        await worker.drain(within=timedelta(seconds=settings.grace_s / 2))

    async def queue() -> None:
        await metrics.watch_queue(catalogue, clock)

    workers = [ingest, reconciler.run, sources.run, tuning.worker.run, quality_worker.run, original_sweep.run]
    service = Service(
        name=DESCRIPTOR.services_by_name["RetrievalService"].full_name,
        register=lambda server: add_RetrievalServiceServicer_to_server(servicer, server),
    )
    return Assembly(
        services=[service] if serve else [],
        ready=ready,
        tasks=[queue, tuning.sample, *(workers if settings.ingest else [])],
        drain=drain,
    )
