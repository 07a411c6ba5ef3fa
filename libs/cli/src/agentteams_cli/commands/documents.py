"""agentteams documents: what is in a knowledge base, and what became of it."""

import click
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.render import excerpt, to_dict, when

STATES = [
    kb_pb.DocumentState.Name(state).removeprefix("DOCUMENT_STATE_").lower()
    for state in kb_pb.DocumentState.values()
    if state
]


@click.command("documents")
@click.argument("knowledge_base")
@click.option("--in-state", type=click.Choice(STATES), help="Only documents in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Most documents.")
@common
@click.pass_obj
def documents_command(settings: Settings, knowledge_base: str, in_state: str | None, limit: int) -> None:
    """List the documents of KNOWLEDGE_BASE by path; of those that failed, say why."""
    found, documents = run_async(_list(settings, knowledge_base, in_state or "", limit))
    output = settings.output
    output.json({"ingest": to_dict(found.ingest), "documents": [to_dict(d) for d in documents]})
    output.table(
        ["document", "state", "chunks", "since", "why"],
        [
            [
                d.path,
                kb_pb.DocumentState.Name(d.state).removeprefix("DOCUMENT_STATE_").lower(),
                str(d.chunk_count),
                when(d.update_time),
                excerpt(d.error.message),
            ]
            for d in documents
        ],
        right=["chunks"],
    )
    counts = found.documents
    output.line(
        f"{knowledge_base}: {counts.ready} ready, {counts.indexing} indexing, {counts.pending} pending, "
        f"{counts.failed} failed; {found.ingest.documents_per_second:.1f} documents and "
        f"{found.ingest.chunks_per_second:.1f} chunks a second in the last minute"
    )
    if counts.failed:
        output.note(f"`agentteams ingest {knowledge_base} --retry-failed` tries those that failed again")


async def _list(
    settings: Settings, knowledge_base: str, state: str, limit: int
) -> tuple[kb_pb.KnowledgeBase, list[kb_pb.Document]]:
    async with connect(settings.state) as client:
        found = await client.knowledge_base(knowledge_base)
        documents: list[kb_pb.Document] = []
        async for document in client.documents(knowledge_base, state=state):
            documents.append(document)
            if len(documents) == limit:
                break
        return found, documents
