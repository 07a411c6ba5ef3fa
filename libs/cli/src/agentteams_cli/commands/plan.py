"""agentteams plan: what a number of vectors needs."""

import click

from agentteams_cli.context import Settings, common
from agentteams_cli.errors import UsageProblem


@click.command("plan")
@click.option("--vectors", required=True, help="How many: 250000, 10M, 1e7.")
@click.option("--dim", required=True, help="Elements of one vector, such as 384 or 768.")
@click.option("--recall", default="0.95", show_default=True, help="At 10, of the exact result.")
@click.option("--replicas", default="1", show_default=True, help="Copies in memory.")
@click.option(
    "--bytes-per-row",
    default="1400",
    show_default=True,
    help="Text and all other fields of one row: 1400, 4k.",
)
@click.option(
    "--node-memory", default="16Gi", show_default=True, help="Of one query node, or of the only machine."
)
@click.option("--index", default="", help="FLAT, IVF_FLAT, IVF_SQ8, HNSW or HNSW_SQ.  [default: chosen]")
@click.option("--no-keywords", is_flag=True, help="No search by words.")
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
@common
@click.pass_obj
def plan_command(
    settings: Settings,
    *,
    vectors: str,
    dim: str,
    recall: str,
    replicas: str,
    bytes_per_row: str,
    node_memory: str,
    index: str,
    no_keywords: bool,
    as_json: bool,
) -> None:
    """Say what so many vectors need in Milvus: index, segments, memory, query nodes. Needs no services."""
    from agentteams_cli.planning import plan_of, show  # noqa: PLC0415  # only this command needs the planner

    if as_json:
        settings.output.format = "json"
    try:
        plan = plan_of(
            vectors=vectors,
            dim=dim,
            recall=recall,
            replicas=replicas,
            bytes_per_row=bytes_per_row,
            node_memory=node_memory,
            index=index,
            keywords=not no_keywords,
        )
    except ValueError as error:
        raise UsageProblem(str(error), fix="`agentteams plan --help` shows every option") from error
    show(settings.output, plan)
