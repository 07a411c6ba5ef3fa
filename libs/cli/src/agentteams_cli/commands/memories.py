"""agentteams memories: what teams know about the user."""

import click
from agentteams.session.v1 import memory_pb2

from agentteams_cli.client import connect
from agentteams_cli.console import Output
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.render import full_name, to_dict, when

_team = click.option("--team", default="", help="Only for this team.")
_limit = click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many."
)


@click.group("memories")
def memories_command() -> None:
    """What teams know about you: add, list, search, forget."""


@memories_command.command("add")
@click.argument("text")
@_team
@common
@click.pass_obj
def add_command(settings: Settings, text: str, team: str) -> None:
    """Remember TEXT, for every team or for one."""

    async def work() -> memory_pb2.Memory:
        async with connect(settings.state) as client:
            return await client.conversations.add_memory(text, team=team)

    memory = run_async(work())
    settings.output.json({"memory": to_dict(memory)})
    settings.output.line(memory.name)


@memories_command.command("list")
@_team
@_limit
@common
@click.pass_obj
def list_command(settings: Settings, team: str, limit: int) -> None:
    """List memories, newest first."""

    async def work() -> list[memory_pb2.Memory]:
        async with connect(settings.state) as client:
            return await client.conversations.memories(team=team, limit=limit)

    _show(settings.output, run_async(work()))


@memories_command.command("search")
@click.argument("query")
@_team
@click.option("--limit", type=click.IntRange(1, 50), default=5, show_default=True, help="At most so many.")
@common
@click.pass_obj
def search_command(settings: Settings, query: str, team: str, limit: int) -> None:
    """Find the memories that fit QUERY, the best first."""

    async def work() -> list[memory_pb2.Memory]:
        async with connect(settings.state) as client:
            return await client.conversations.search_memories(query, team=team, limit=limit)

    _show(settings.output, run_async(work()))


@memories_command.command("forget")
@click.argument("memory")
@common
@click.pass_obj
def forget_command(settings: Settings, memory: str) -> None:
    """Delete MEMORY."""
    name = full_name("memories", memory)

    async def work() -> None:
        async with connect(settings.state) as client:
            await client.conversations.forget(name)

    run_async(work())
    settings.output.json({"deleted": name})
    settings.output.line(f"{name} forgotten")


def _show(output: Output, memories: list[memory_pb2.Memory]) -> None:
    output.json({"memories": [to_dict(memory) for memory in memories]})
    output.table(
        ["memory", "team", "since", "text"],
        [[m.name, m.team.removeprefix("teams/") or "all", when(m.create_time), m.text] for m in memories],
    )
