"""agentteams doctor: what is wrong, and how to mend it."""

from dataclasses import asdict

import click

from agentteams_cli.checks import Check, run_checks
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED

_MARKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "problem": ("FAIL", "bold red")}


@click.command("doctor")
@common
@click.pass_obj
def doctor_command(settings: Settings) -> None:
    """Check models, disk, ports, every service, manifests, teams and knowledge bases.

    The exit code is 1 if anything is wrong; each finding says what to do.
    """
    found = run_async(_run(settings))
    has_problem = any(check.level == "problem" for check in found)
    settings.output.json({"ok": not has_problem, "checks": [asdict(check) for check in found]})
    if has_problem:
        click.get_current_context().exit(EXIT_FAILED)


async def _run(settings: Settings) -> list[Check]:
    found = []
    async for check in run_checks(settings.state):
        found.append(check)
        mark, style = _MARKS[check.level]
        settings.output.line(
            f"{mark:<5} {check.name:<12} {check.message}" + (f"; {check.fix}" if check.fix else ""),
            style=style if check.level != "ok" else "",
        )
    return found
