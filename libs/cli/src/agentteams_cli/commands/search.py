"""agentteams search: what a knowledge base finds."""

from typing import Any

import click
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from google.protobuf.json_format import ParseDict

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED
from agentteams_cli.render import excerpt, full_name, milliseconds, outcome_name, time_text, to_dict
from manifests.filters import FilterError, parse_filter

_NEIGHBOUR_CHARACTERS = 160


class FilterText(click.ParamType[filter_pb.Filter]):
    """A filter as people write it."""

    name = "filter"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> filter_pb.Filter:
        """Fails with where the text goes wrong."""
        try:
            return ParseDict(parse_filter(value), filter_pb.Filter())
        except FilterError as error:
            raise click.BadParameter(str(error), ctx, param) from error


class RankerText(click.ParamType[kb_pb.Ranker]):
    """`rrf`, `rrf:K` or `weighted:PART`."""

    name = "ranker"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> kb_pb.Ranker:
        """Fails with what is allowed."""
        kind, _, number = value.partition(":")
        try:
            if kind == "rrf" and (not number or 1 <= int(number) <= 1000):
                return kb_pb.Ranker(reciprocal_rank=kb_pb.ReciprocalRank(k=int(number or 0)))
            if kind == "weighted" and 0 <= float(number) <= 1:
                return kb_pb.Ranker(weighted=kb_pb.Weighted(dense_weight=float(number)))
        except ValueError:
            pass  # told below
        raise click.BadParameter(
            f"{value!r} must be rrf, rrf:K with K from 1 to 1000, or weighted:PART with the part of the "
            "vectors from 0 to 1, such as weighted:0.7",
            ctx,
            param,
        )


@click.command("search")
@click.argument("knowledge_base")
@click.argument("query")
@click.option("--also", multiple=True, metavar="QUERY", help="The same in other words; up to 7 times.")
@click.option("--top-k", type=click.IntRange(1, 100), help="Most chunks.  [default: the knowledge base's, 8]")
@click.option(
    "--mode",
    type=click.Choice(["Dense", "Sparse", "Hybrid"], case_sensitive=False),
    help="By meaning, by words, or both.  [default: the knowledge base's]",
)
@click.option(
    "--filter",
    "filter_",
    type=FilterText(),
    help="Only chunks that it allows, such as 'year >= 2020 and (lang == \"en\" or not has draft)'.",
)
@click.option("--min-similarity", type=click.FloatRange(-1, 1), help="Least cosine similarity.")
@click.option(
    "--ranker",
    type=RankerText(),
    help="How lists become one: rrf, rrf:K or weighted:PART.  [default: the knowledge base's]",
)
@click.option("--rerank", metavar="MODEL", help="A ModelConfig of type Rerank that orders the best anew.")
@click.option("--no-rerank", is_flag=True, help="No rerank, though the knowledge base has one.")
@click.option(
    "--diverse",
    type=click.FloatRange(0, 1),
    metavar="WEIGHT",
    help="What says the same gives way: 1 looks at relevance only, 0 at difference only.",
)
@click.option("--max-per-document", type=click.IntRange(1, 100), help="Most chunks of one document.")
@click.option("--neighbours", type=click.IntRange(0, 5), default=0, help="Chunks before and after each.")
@common
@click.pass_obj
def search_command(settings: Settings, /, knowledge_base: str, query: str, **options: Any) -> None:
    """Show what KNOWLEDGE_BASE finds for QUERY, best first.

    The exit code is 1 if the search could not be made; to find nothing is no failure.
    """
    response = run_async(_search(settings, _request(knowledge_base, query, **options)))
    output = settings.output
    output.json(to_dict(response) | {"outcome": outcome_name(response)})
    for reason in response.reasons:
        if not output.is_json:
            output.note(f"{outcome_name(response)}: {reason.message}", style="yellow")
    for number, chunk in enumerate(response.chunks, 1):
        output.line(f"{number}. {_head(chunk)}", "bold")
        before = [n for n in chunk.neighbours if n.ordinal < chunk.ordinal]
        for beside in before:
            output.line(f"   … {excerpt(beside.text, _NEIGHBOUR_CHARACTERS)}", "dim")
        output.line(f"   {excerpt(chunk.text, 400)}")
        for beside in chunk.neighbours[len(before) :]:
            output.line(f"   … {excerpt(beside.text, _NEIGHBOUR_CHARACTERS)}", "dim")
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


def _head(chunk: pb.Chunk) -> str:
    where = f", {chunk.location}" if chunk.location else ""
    similarity = f"  similarity {chunk.similarity:.2f}" if chunk.HasField("similarity") else ""
    values = "".join(f"  {name}={_value(chunk.metadata[name])}" for name in sorted(chunk.metadata))
    return f"{chunk.document_title}{where}  {chunk.score:.4f}{similarity}{values}  chunk {chunk.id}"


def _value(value: filter_pb.Value) -> str:
    kind = value.WhichOneof("kind")
    found = getattr(value, kind) if kind else ""
    return str(found).lower() if isinstance(found, bool) else str(found)


def _request(knowledge_base: str, query: str, **options: Any) -> pb.SearchRequest:
    if options["rerank"] and options["no_rerank"]:
        raise click.UsageError("--rerank and --no-rerank exclude one another: leave one out")
    request = pb.SearchRequest(
        knowledge_base=full_name("knowledgeBases", knowledge_base),
        query=query,
        more_queries=options["also"],
        top_k=options["top_k"] or 0,
        mode=kb_pb.SearchMode.Value(f"SEARCH_MODE_{(options['mode'] or 'unspecified').upper()}"),
        filter=options["filter_"],
        min_similarity=options["min_similarity"],
        ranker=options["ranker"],
        rerank_off=options["no_rerank"],
        relevance_weight=options["diverse"],
        max_per_document=options["max_per_document"] or 0,
        neighbours=options["neighbours"],
    )
    if options["rerank"]:
        request.rerank.model = full_name("models", options["rerank"])
    return request


async def _search(settings: Settings, request: pb.SearchRequest) -> pb.SearchResponse:
    async with connect(settings.state) as client:
        return await client.search(request)
