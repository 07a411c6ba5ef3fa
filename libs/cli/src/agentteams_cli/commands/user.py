"""agentteams user: all that is stored about the user, to take away or to delete."""

import json
from collections import Counter
from pathlib import Path
from typing import TextIO

import click
from agentteams.session.v1 import session_service_pb2 as pb

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import CliError
from agentteams_cli.render import to_dict


@click.group("user")
def user_command() -> None:
    """All that is stored about you: export, erase."""


@user_command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common
@click.pass_obj
def export_command(settings: Settings, file: Path) -> None:
    """Write sessions, messages, runs, their events and memories to FILE, a JSON object a line."""
    counts: Counter[str] = Counter()

    async def work(out: TextIO) -> None:
        async with connect(settings.state) as client:
            with settings.output.progress() as bar:
                async for record in client.conversations.export():
                    out.write(json.dumps(to_dict(record), ensure_ascii=False) + "\n")
                    counts[record.WhichOneof("record") or "unknown"] += 1
                    if counts.total() % 1000 == 0:
                        bar("records", counts.total(), 0)

    # Beside it first: an export that broke off must not look like a whole one.
    unfinished = file.with_name(file.name + ".part")
    try:
        with unfinished.open("w", encoding="utf-8") as out:
            run_async(work(out))
        unfinished.replace(file)
    except OSError as exc:
        raise CliError(f"{file} cannot be written: {exc.strerror}", fix="name another file") from exc
    finally:
        unfinished.unlink(missing_ok=True)
    settings.output.json({"file": str(file), "records": dict(counts)})
    settings.output.line(f"{file}: " + (", ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing"))


@user_command.command("erase")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@click.pass_obj
def erase_command(settings: Settings, yes: bool) -> None:
    """Delete all your sessions, runs and memories. Runs that are active must end first."""
    if not yes:
        click.confirm("Delete all your sessions, runs and memories?", abort=True, err=True)

    async def work() -> pb.EraseUserDataResponse:
        async with connect(settings.state) as client:
            return await client.conversations.erase()

    erased = run_async(work())
    fields = ("sessions", "messages", "runs", "run_events", "memories")
    found = {field: getattr(erased, field) for field in fields}
    settings.output.json({"erased": found})
    settings.output.line("erased: " + ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in found.items()))
