"""agentteams workflow: what a manifest's workflow looks like."""

from pathlib import Path

import click

from agentteams_cli.context import Group, Settings, common
from agentteams_cli.errors import EXIT_FAILED, CliError
from agentteams_cli.manifests_store import load_all, manifest_files
from manifests import AgentTeam
from manifests.mermaid import to_mermaid


@click.group("workflow", cls=Group)
@common
def workflow_command() -> None:
    """Look at the workflows of teams."""


@workflow_command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--team", default="", help="Which team, if the file has several with a workflow.")
@common
@click.pass_obj
def show_command(settings: Settings, file: Path, team: str) -> None:
    """Print the workflow of a manifest as a Mermaid flowchart. Needs no services."""
    loaded = load_all(manifest_files([file]))
    teams = {
        o.resource.metadata.name: o.resource
        for o in loaded.objects
        if isinstance(o.resource, AgentTeam) and o.resource.spec.workflow is not None
    }
    if not teams and loaded.problems:
        for problem in loaded.problems:
            settings.output.note(str(problem))
        click.get_current_context().exit(EXIT_FAILED)
    names = ", ".join(teams) or "none"
    if team and team not in teams:
        raise CliError(f"{file} has no team {team} with a workflow", fix=f"name one that it has: {names}")
    if not teams:
        raise CliError(
            f"{file} has no team with a workflow", fix="set spec.mode to Workflow and add spec.workflow"
        )
    if not team and len(teams) > 1:
        raise CliError(
            f"{file} has several teams with a workflow", fix=f"choose one of them with --team: {names}"
        )
    drawing = to_mermaid(teams[team or next(iter(teams))].spec)
    settings.output.json({"mermaid": drawing})
    settings.output.line(drawing.rstrip("\n"))
