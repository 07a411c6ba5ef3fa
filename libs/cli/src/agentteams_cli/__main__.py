"""The `agentteams` command."""

import os
import sys
from importlib.metadata import version

import click

from agentteams_cli.commands.apply import apply_command
from agentteams_cli.commands.chat import chat_command
from agentteams_cli.commands.doctor import doctor_command
from agentteams_cli.commands.documents import documents_command
from agentteams_cli.commands.evaluate import evaluate_command
from agentteams_cli.commands.export import export_command
from agentteams_cli.commands.history import history_command, undo_command
from agentteams_cli.commands.ingest import ingest_command
from agentteams_cli.commands.knowledge import knowledge_command
from agentteams_cli.commands.memories import memories_command
from agentteams_cli.commands.plan import plan_command
from agentteams_cli.commands.runs import runs_command
from agentteams_cli.commands.search import search_command
from agentteams_cli.commands.sessions import sessions_command
from agentteams_cli.commands.tune import tune_command
from agentteams_cli.commands.up import up_command
from agentteams_cli.commands.user import user_command
from agentteams_cli.commands.workflow import workflow_command
from agentteams_cli.context import Group, Settings, common
from agentteams_cli.errors import EXIT_FAILED

EPILOG = (
    "Exit codes: 0 done, 1 what was asked for failed, 2 wrong usage, 3 the services do not answer, "
    "4 the run waits for a person, 130 Ctrl-C."
)


@click.group("agentteams", cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@common
@click.pass_context
def agentteams(context: click.Context) -> None:
    """Teams of agents that answer from your documents, on this machine."""
    context.ensure_object(Settings)


@agentteams.command("version")
@common
@click.pass_obj
def version_command(settings: Settings) -> None:
    """Print the version."""
    number = version("agentteams-cli")
    settings.output.json({"version": number})
    settings.output.line(f"agentteams {number}")


for command in (
    up_command,
    apply_command,
    ingest_command,
    documents_command,
    search_command,
    evaluate_command,
    knowledge_command,
    export_command,
    chat_command,
    runs_command,
    sessions_command,
    memories_command,
    user_command,
    workflow_command,
    history_command,
    undo_command,
    tune_command,
    plan_command,
    doctor_command,
):
    agentteams.add_command(command)


def main() -> None:
    """Runs the command. A bug becomes one line too; AGENTTEAMS_DEBUG=1 shows where it is."""
    try:
        agentteams()
    except Exception as exc:
        if os.environ.get("AGENTTEAMS_DEBUG"):
            raise
        sys.stderr.write(
            f"error: unexpected {type(exc).__name__}: {exc}; this is a bug, AGENTTEAMS_DEBUG=1 shows where\n"
        )
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
