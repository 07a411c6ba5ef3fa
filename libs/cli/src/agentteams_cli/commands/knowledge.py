"""agentteams knowledge: knowledge bases and how they are."""

import click
from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.client import connect
from agentteams_cli.console import Output
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.quality import HISTORY, quality_rows, show_history
from agentteams_cli.render import to_dict, when
from capacity import show_bytes


@click.command("knowledge")
@click.argument("name", required=False)
@common
@click.pass_obj
def knowledge_command(settings: Settings, name: str | None) -> None:
    """Show all knowledge bases, or one with all that is known of it."""
    if name is None:
        found = run_async(_all(settings))
        settings.output.json({"knowledge_bases": [to_dict(one) for one in found]})
        _table(settings.output, found)
        return
    one, failures, history = run_async(_one(settings, name))
    settings.output.json(
        {
            "knowledge_base": to_dict(one),
            "failures": [to_dict(d) for d in failures],
            "evaluations": [to_dict(evaluation) for evaluation in history],
        }
    )
    _show(settings.output, one, failures)
    show_history(settings.output, history)


async def _all(settings: Settings) -> list[kb_pb.KnowledgeBase]:
    async with connect(settings.state) as client:
        return await client.knowledge_bases()


async def _one(
    settings: Settings, name: str
) -> tuple[kb_pb.KnowledgeBase, list[kb_pb.Document], list[evaluation_pb.Evaluation]]:
    async with connect(settings.state) as client:
        found = await client.knowledge_base(name)
        failures = await client.knowledge.failures(name) if found.documents.failed else []
        return found, failures, await client.evaluations.newest(name, HISTORY)


def _table(output: Output, found: list[kb_pb.KnowledgeBase]) -> None:
    if not found:
        output.line("No knowledge base yet: add one with `agentteams apply -f FILE`.")
        return
    output.table(
        ["NAME", "MODEL", "READY", "WAITING", "FAILED", "CHUNKS", "INDEX", "CHUNKS/S"],
        [
            [
                _last(one.name),
                _last(one.embedding_model),
                str(one.documents.ready),
                str(one.documents.pending + one.documents.indexing),
                str(one.documents.failed),
                str(one.chunk_count),
                _index(one),
                _rate(one.ingest.chunks_per_second),
            ]
            for one in found
        ],
        right=["READY", "WAITING", "FAILED", "CHUNKS", "CHUNKS/S"],
    )


def _milvus(one: kb_pb.KnowledgeBase) -> str:
    """With what all collections take of its memory, where it says so."""
    used, has = one.capacity.milvus_used_bytes, one.capacity.milvus_memory_bytes
    if not used or not has:
        return one.deployment
    return f"{one.deployment}, {show_bytes(used)} of {show_bytes(has)} in use"


def _show(output: Output, one: kb_pb.KnowledgeBase, failures: list[kb_pb.Document]) -> None:
    documents, ingest, capacity = one.documents, one.ingest, one.capacity
    fields = ", ".join(f"{field.name} ({_enum(field.type)})" for field in one.metadata_fields)
    rows = [
        ("model", f"{_last(one.embedding_model)}, {one.dimension} dimensions"),
        (
            "documents",
            f"{documents.ready} ready, {documents.pending} waiting, {documents.indexing} being indexed, "
            f"{documents.failed} failed",
        ),
        ("chunks", str(one.chunk_count)),
        ("metadata", fields or "none"),
        ("tenancy", kb_pb.Tenancy.Name(one.tenancy).removeprefix("TENANCY_").lower()),
        ("index", _index(one)),
        ("ingest", f"{_rate(ingest.chunks_per_second)} chunks a second"),
        ("waiting since", when(ingest.oldest_pending_time) if ingest.HasField("oldest_pending_time") else ""),
        ("last error", ingest.last_error),
        ("memory", f"{capacity.memory_bytes / 2**20:.0f} MiB" if capacity.memory_bytes else ""),
        ("capacity", capacity.advice),
        *quality_rows(one),
        *((f"source {status.name}", _source(status)) for status in one.source_statuses),
        ("Milvus", _milvus(one)),
        ("created", when(one.create_time)),
        ("generation", str(one.generation)),
    ]
    output.line(_last(one.name), "bold")
    output.table(["", ""], [row for row in rows if row[1]])
    for document in failures:
        output.line(f"failed: {document.path}: {document.error.message}", "red")
    if documents.failed > len(failures):
        output.line(f"and {documents.failed - len(failures)} more that failed", "red")


def _index(one: kb_pb.KnowledgeBase) -> str:
    status = one.index_status
    if not status.type:
        return "not known yet"
    params = {**status.build_params, **status.search_params}
    shown = " ".join(f"{name}={value}" for name, value in sorted(params.items()))
    return f"{index_pb.IndexType.Name(status.type).removeprefix('INDEX_TYPE_')} {shown}".strip()


def _source(status: kb_pb.SourceStatus) -> str:
    seen = (
        f"{status.files} files, {when(status.sync_time)}" if status.HasField("sync_time") else "not yet seen"
    )
    return f"{seen}; {status.message}" if status.message else seen


def _rate(rate: float) -> str:
    return f"{rate:.1f}"


def _enum(type_: "kb_pb.MetadataType.ValueType") -> str:
    return kb_pb.MetadataType.Name(type_).removeprefix("METADATA_TYPE_").capitalize()


def _last(name: str) -> str:
    return name.rpartition("/")[2]
