"""agentteams apply: manifests into effect."""

from collections.abc import Sequence
from pathlib import Path

import click

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED
from agentteams_cli.manifests_store import Applied, Loaded, load_all, manifest_files, store, take_effect
from manifests import DEFAULT_NAMESPACE, Problem


@click.command("apply")
@click.option(
    "-f",
    "--filename",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A YAML file or a folder of them; can be given several times.",
)
@common
@click.pass_obj
def apply_command(settings: Settings, paths: tuple[Path, ...]) -> None:
    """Check manifests and put them into effect.

    Every problem is named with file, line, field and fix. The valid documents take effect although others are
    wrong; the exit code is then 1. Without running services they take effect at the next `agentteams up`.
    """
    loaded = load_all(manifest_files(paths))
    applied = store(settings.state, loaded)
    is_running = settings.state.read_runtime() is not None
    troubles = run_async(_take_effect(settings, loaded, applied)) if is_running and applied else []
    show(settings, applied, loaded.problems, troubles)
    if not is_running and applied:
        settings.output.note("No services run: this takes effect with the next `agentteams up`.")
    if loaded.problems or troubles:
        click.get_current_context().exit(EXIT_FAILED)


async def _take_effect(settings: Settings, loaded: Loaded, applied: Sequence[Applied]) -> list[str]:
    # What refers to something missing was reported with its line; to wait for it would be in vain.
    waiting = {(a.kind, a.name) for a in applied if not a.problems and a.namespace == DEFAULT_NAMESPACE}
    async with connect(settings.state) as client:
        ready = [o.resource for o in loaded.objects if (o.resource.kind, o.resource.metadata.name) in waiting]
        return await take_effect(client, ready, config_maps=settings.state.config_maps)


def show(
    settings: Settings, applied: Sequence[Applied], problems: Sequence[Problem], troubles: Sequence[str]
) -> None:
    """One line an object, one line a problem."""
    output = settings.output
    for one in applied:
        note = "" if not one.problems else " (not ready)"
        namespace = "" if one.namespace == DEFAULT_NAMESPACE else f" in {one.namespace}"
        output.line(f"{one.kind.lower()}/{one.name}{namespace} {one.change}{note}")
    for problem in problems:
        if not output.is_json:
            output.note(str(problem), style="red")
    for trouble in troubles:
        if not output.is_json:
            output.note(trouble, style="red")
    output.json(
        {
            "applied": [
                {"kind": a.kind, "namespace": a.namespace, "name": a.name, "change": a.change}
                for a in applied
            ],
            "problems": [
                {
                    "path": str(p.path),
                    "line": p.line,
                    "field": p.field,
                    "message": p.message,
                    "value": p.value,
                    "fix": p.fix,
                    "object": p.object,
                }
                for p in problems
            ],
            "not_in_effect": list(troubles),
        }
    )
