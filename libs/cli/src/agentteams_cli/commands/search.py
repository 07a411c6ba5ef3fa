"""agentteams search: what a knowledge base finds."""

import click
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED
from agentteams_cli.render import excerpt, milliseconds, outcome_name, time_text, to_dict


@click.command("search")
@click.argument("knowledge_base")
@click.argument("query")
@click.option("--top-k", type=click.IntRange(1, 100), default=8, show_default=True, help="Most chunks.")
@click.option(
    "--mode",
    type=click.Choice(["Dense", "Sparse", "Hybrid"], case_sensitive=False),
    help="By meaning, by words, or both.  [default: the knowledge base's]",
)
@common
@click.pass_obj
def search_command(settings: Settings, knowledge_base: str, query: str, top_k: int, mode: str | None) -> None:
    """Show what KNOWLEDGE_BASE finds for QUERY, best first.

    The exit code is 1 if the search could not be made; to find nothing is no failure.
    """
    response = run_async(_search(settings, knowledge_base, query, top_k, mode or ""))
    output = settings.output
    output.json(to_dict(response) | {"outcome": outcome_name(response)})
    for reason in response.reasons:
        if not output.is_json:
            output.note(f"{outcome_name(response)}: {reason.message}", style="yellow")
    for number, chunk in enumerate(response.chunks, 1):
        where = f", {chunk.location}" if chunk.location else ""
        output.line(f"{number}. {chunk.document_title}{where}  {chunk.score:.4f}  chunk {chunk.id}", "bold")
        output.line(f"   {excerpt(chunk.text, 400)}")
    if response.outcome == pb.SEARCH_OUTCOME_EMPTY:
        empty = (
            "It has no documents yet: add some with `agentteams ingest`."
            if not response.ready_documents
            else ""
        )
        output.line(f"Nothing was found. {empty}".strip())
    elif response.chunks:
        times = ", ".join(f"{s.stage} {time_text(milliseconds(s.duration))}" for s in response.stages)
        output.line(times, "dim")
    if response.outcome == pb.SEARCH_OUTCOME_FAILED:
        click.get_current_context().exit(EXIT_FAILED)


async def _search(
    settings: Settings, knowledge_base: str, query: str, top_k: int, mode: str
) -> pb.SearchResponse:
    async with connect(settings.state) as client:
        return await client.search(knowledge_base, query, top_k=top_k, mode=mode)
