"""agentteams tune: measure the index of a knowledge base, and use the best parameters."""

import asyncio

import click
from agentteams.retrieval.v1 import index_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.client import Client, connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.curve import curve_lines, named
from agentteams_cli.errors import EXIT_FAILED, CliError
from agentteams_cli.render import to_dict

_POLL_S = 0.5
_UNFINISHED = (pb.Tuning.STATE_PENDING, pb.Tuning.STATE_RUNNING)


@click.command("tune")
@click.argument("knowledge_base")
@click.option("--wait", is_flag=True, help="Until it is done, then show what was measured.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=1800, show_default=True, help="Of --wait, in seconds."
)
@common
@click.pass_obj
def tune_command(settings: Settings, *, knowledge_base: str, wait: bool, timeout: float) -> None:
    """Measure the index of KNOWLEDGE_BASE with real queries, and search it by the cheapest parameters.

    Searches go on meanwhile. Without --wait it is only queued. The exit code is 1 if it failed.
    """
    output = settings.output
    if not wait:
        tuning = run_async(_queue(settings, knowledge_base))
        output.json(to_dict(tuning))
        output.line(
            f"{knowledge_base}: {_state(tuning)}. See it end with `agentteams tune {knowledge_base} --wait`."
        )
        return
    found = run_async(_tuned(settings, knowledge_base, timeout))
    output.json(to_dict(found.index_status))
    for line in curve_lines(found.index_status):
        output.line(line)
    if found.capacity.advice:
        output.note(found.capacity.advice, style="yellow")
    if found.index_status.tuning.state == pb.Tuning.STATE_FAILED:
        click.get_current_context().exit(EXIT_FAILED)


async def _queue(settings: Settings, knowledge_base: str) -> pb.Tuning:
    async with connect(settings.state) as client:
        return await client.tune(knowledge_base)


async def _tuned(settings: Settings, knowledge_base: str, timeout_s: float) -> kb_pb.KnowledgeBase:
    async with connect(settings.state) as client:
        await client.tune(knowledge_base)
        try:
            async with asyncio.timeout(timeout_s):
                return await _follow(settings, client, knowledge_base)
        except TimeoutError:
            raise CliError(
                f"{knowledge_base} is not tuned after {timeout_s:g} s; it goes on",
                fix="look again with --wait, or see why in the log of the retrieval service",
            ) from None


async def _follow(settings: Settings, client: Client, knowledge_base: str) -> kb_pb.KnowledgeBase:
    seen = ""
    while True:
        found = await client.knowledge_base(knowledge_base)
        tuning = found.index_status.tuning
        if tuning.state not in _UNFINISHED:
            return found
        if _state(tuning) != seen and not settings.output.is_json:
            seen = _state(tuning)
            settings.output.note(f"{knowledge_base}: {seen} …")
        await asyncio.sleep(_POLL_S)


def _state(tuning: pb.Tuning) -> str:
    return named(pb.Tuning.State.Name(tuning.state), "STATE_").lower()
