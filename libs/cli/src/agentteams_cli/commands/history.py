"""agentteams history and undo: revisions of teams on a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import CliError, UsageProblem
from agentteams_cli.revisions import Revision, restored, revisions_of, to_undo

_ATTEMPTS = 3
_ANY_FILE = click.Path(dir_okay=False, path_type=Path)


def _cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which cluster and namespace."""
    for option in (
        click.option("--kubeconfig", type=_ANY_FILE, help="File that says how to reach the cluster."),
        click.option("--context", default="", help="Context of the kubeconfig. Default: its current one."),
        click.option("--namespace", "-n", default="", help="Default: the context's."),
    ):
        command = option(command)
    return command


class _OfTeams(click.Group):
    """Says what is missing to who leaves the kind out."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """See click."""
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f'"{args[0]}" is no kind: for a team of that name, {ctx.command_path} team {args[0]}')
        return super().resolve_command(ctx, args)


@click.group("history", cls=_OfTeams)
def history_command() -> None:
    """Which revisions there are, on a cluster."""


@history_command.command("team")
@click.argument("name")
@_cluster
@common
@click.pass_obj
def history_team(settings: Settings, /, *, name: str, **place: Any) -> None:
    """List the revisions of team NAME, the newest first."""
    found = run_async(_history(settings, name, place))
    settings.output.json({"team": name, "revisions": [_dict(one) for one in found]})
    settings.output.table(
        ["number", "revision", "created", "state", "changed"],
        [[str(one.number), one.name, one.created, one.state, ", ".join(one.changed)] for one in found],
        right=["number"],
    )


@click.group("undo", cls=_OfTeams)
def undo_command() -> None:
    """Write an earlier revision back, on a cluster."""


@undo_command.command("team")
@click.argument("name")
@click.option(
    "--to-revision", type=click.IntRange(min=1), help="Its number in `agentteams history team NAME`."
)
@_cluster
@common
@click.pass_obj
def undo_team(settings: Settings, /, *, name: str, to_revision: int | None, **place: Any) -> None:
    """Write a revision's spec back into team NAME; default: the one that served before the present spec.

    runtime and suspend stay as they are. What instructionsFrom named is written out as instructions.
    """
    one = run_async(_undo(settings, name, to_revision, place))
    settings.output.json({"team": name, "number": one.number, "revision": one.name})
    if one.wanted:
        why = "" if one.serves else f"; why it does not serve: kubectl describe agentteam {name}"
        settings.output.line(f"Team {name} asks for revision {one.number} ({one.name}) already{why}.")
        return
    settings.output.line(
        f"Team {name} asks for revision {one.number} ({one.name}) again; it serves as soon as it is ready. "
        "Apply the same from where your manifests are, or the next apply brings the newer spec back."
    )


async def _history(settings: Settings, name: str, place: dict[str, Any]) -> list[Revision]:
    from agentteams_cli.cluster import connect  # noqa: PLC0415  no other command needs its client

    async with connect(_place(settings, place)) as teams:
        return revisions_of(await teams.team(name), await teams.revisions(name))


async def _undo(settings: Settings, name: str, number: int | None, place: dict[str, Any]) -> Revision:
    from agentteams_cli.cluster import Conflicted, connect  # noqa: PLC0415  as above

    async with connect(_place(settings, place)) as teams:
        for _ in range(_ATTEMPTS):
            team = await teams.team(name)
            one = to_undo(team, revisions_of(team, await teams.revisions(name)), number)
            if one.wanted:
                return one
            try:
                await teams.replace(restored(team, one))
            except Conflicted:
                continue  # the operator wrote a status, or somebody a label
            return one
    raise CliError(f"team {name} is being changed by others", fix="try again")


def _place(settings: Settings, given: dict[str, Any]) -> Any:
    from agentteams_cli.cluster import Place  # noqa: PLC0415  as above

    place = Place(**given)
    if settings.state.in_use() and not place.named:
        raise UsageProblem(
            "what runs here (agentteams up) keeps no revisions: manifests are files",
            fix="keep them under version control, and apply an earlier version; for a cluster name "
            "--context, --namespace or --kubeconfig, or set KUBECONFIG",
        )
    return place


def _dict(one: Revision) -> dict[str, Any]:
    return {
        "number": one.number,
        "revision": one.name,
        "created": one.created,
        "serves": one.serves,
        "newest": one.wanted,
        "changed": list(one.changed),
        "spec": one.data,
    }
