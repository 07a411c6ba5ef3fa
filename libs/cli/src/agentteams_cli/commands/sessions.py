"""agentteams sessions: conversations, kept and named."""

import click
from agentteams.session.v1 import session_pb2

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.marking import marked, print_scores
from agentteams_cli.render import excerpt, full_name, to_dict, when


@click.group("sessions")
def sessions_command() -> None:
    """Conversations: list, show, rename, fork, delete."""


@sessions_command.command("list")
@click.option("--team", default="", help="Only sessions with this team.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@common
@click.pass_obj
def list_command(settings: Settings, team: str, limit: int) -> None:
    """List sessions, the one last used first."""

    async def work() -> list[session_pb2.Session]:
        async with connect(settings.state) as client:
            return await client.conversations.sessions(team=team, limit=limit)

    sessions = run_async(work())
    settings.output.json({"sessions": [to_dict(session) for session in sessions]})
    settings.output.table(
        ["session", "team", "last used", "messages", "title"],
        [
            [
                session.name,
                session.team.removeprefix("teams/"),
                when(session.update_time),
                str(session.message_count),
                excerpt(session.display_name, 60),
            ]
            for session in sessions
        ],
        right=["messages"],
    )


@sessions_command.command("show")
@click.argument("session")
@common
@click.pass_obj
def show_command(settings: Settings, session: str) -> None:
    """Show the messages of SESSION; their names are what `fork` takes."""

    async def work() -> tuple[session_pb2.Session, list[session_pb2.Message]]:
        name = full_name("sessions", session)
        async with connect(settings.state) as client:
            found = await client.conversations.session(name)
            return found, [message async for message in client.conversations.messages(name)]

    found, messages = run_async(work())
    output = settings.output
    output.json({"session": to_dict(found), "messages": [to_dict(message) for message in messages]})
    output.line(f"{found.name}  {found.team.removeprefix('teams/')}  {found.display_name}", "bold")
    for message in messages:
        role = session_pb2.Role.Name(message.role).removeprefix("ROLE_").lower()
        output.line()
        output.line(f"{role}, {when(message.create_time)}  {message.name}", "dim")
        scores = message.scores if message.HasField("scores") else None
        output.line(marked(message.content, scores))
        if scores is not None:
            print_scores(output, scores)


@sessions_command.command("rename")
@click.argument("session")
@click.argument("title")
@common
@click.pass_obj
def rename_command(settings: Settings, session: str, title: str) -> None:
    """Give SESSION another TITLE."""

    async def work() -> session_pb2.Session:
        async with connect(settings.state) as client:
            return await client.conversations.rename(full_name("sessions", session), title)

    renamed = run_async(work())
    settings.output.json({"session": to_dict(renamed)})
    settings.output.line(f"{renamed.name}  {renamed.display_name}")


@sessions_command.command("fork")
@click.argument("message")
@click.option("--title", default="", help="Title of the new session.  [default: that of the old one]")
@common
@click.pass_obj
def fork_command(settings: Settings, message: str, title: str) -> None:
    """Begin a new session with everything up to MESSAGE (sessions/…/messages/…)."""

    async def work() -> session_pb2.Session:
        async with connect(settings.state) as client:
            return await client.conversations.fork(full_name("sessions", message), display_name=title)

    forked = run_async(work())
    settings.output.json({"session": to_dict(forked)})
    settings.output.line(f"{forked.name}  {forked.message_count} messages  {forked.display_name}")


@sessions_command.command("delete")
@click.argument("session")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@click.pass_obj
def delete_command(settings: Settings, session: str, yes: bool) -> None:
    """Delete SESSION with its messages and runs."""
    name = full_name("sessions", session)
    if not yes:
        click.confirm(f"Delete {name} with its messages and runs?", abort=True, err=True)

    async def work() -> None:
        async with connect(settings.state) as client:
            await client.conversations.delete(name)

    run_async(work())
    settings.output.json({"deleted": name})
    settings.output.line(f"{name} deleted")
