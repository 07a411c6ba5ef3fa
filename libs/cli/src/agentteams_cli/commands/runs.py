"""agentteams runs: what was asked, and where the time went."""

import click
from agentteams.session.v1 import run_pb2

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.render import (
    citation_dict,
    milliseconds,
    print_citations,
    print_stages,
    print_usage,
    state_name,
    step_text,
    summary_dict,
    time_text,
    to_dict,
)


@click.group("runs")
def runs_command() -> None:
    """What was asked, and where the time went."""


@runs_command.command("list")
@click.option("--team", default="", help="Only runs of this team.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most runs.")
@common
@click.pass_obj
def list_command(settings: Settings, team: str, limit: int) -> None:
    """List the newest runs."""
    runs = run_async(_list(settings, team, limit))
    settings.output.json({"runs": [_run_dict(run) for run in runs]})
    settings.output.table(
        ["run", "team", "state", "started", "time", "searches", "saved", "tokens"],
        [
            [
                run.name,
                run.team.removeprefix("teams/"),
                state_name(run.state),
                run.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
                time_text(milliseconds(run.summary.duration)) if run.HasField("summary") else "",
                str(run.summary.usage.searches),
                str(run.summary.usage.searches_saved),
                str(run.summary.usage.input_tokens + run.summary.usage.output_tokens),
            ]
            for run in runs
        ],
        right=["time", "searches", "saved", "tokens"],
    )


async def _list(settings: Settings, team: str, limit: int) -> list[run_pb2.Run]:
    async with connect(settings.state) as client:
        return await client.runs(team=team, limit=limit)


@runs_command.command("show")
@click.argument("run")
@common
@click.pass_obj
def show_command(settings: Settings, run: str) -> None:
    """Show the steps of RUN, its answer, and the time of each stage."""
    name = run if run.startswith("runs/") else f"runs/{run}"
    found, events = run_async(_show(settings, name))
    output = settings.output
    output.json({"run": _run_dict(found), "events": [to_dict(event) for event in events]})
    output.line(f"{found.name}  {found.team.removeprefix('teams/')}  {state_name(found.state)}", "bold")
    answers = [e.message_completed.message for e in events if e.WhichOneof("event") == "message_completed"]
    for event in events:
        text = step_text(event)
        if text:
            output.line(f"  {event.sequence:>3}  {text}")
    for answer, event in zip(answers, _completed(events), strict=True):
        if not event.member:
            output.line()
            output.line(answer.content)
            output.line()
            print_citations(output, [citation_dict(c) for c in answer.citations])
    if found.HasField("status") and found.status.code:
        output.line(f"failed: {found.status.message}", "red")
    if found.HasField("summary"):
        summary = summary_dict(found.summary)
        print_usage(output, summary["usage"])
        print_stages(output, summary["stages"])


def _completed(events: list[run_pb2.RunEvent]) -> list[run_pb2.RunEvent]:
    return [e for e in events if e.WhichOneof("event") == "message_completed"]


async def _show(settings: Settings, name: str) -> tuple[run_pb2.Run, list[run_pb2.RunEvent]]:
    async with connect(settings.state) as client:
        return await client.run(name), await client.run_events(name)


def _run_dict(run: run_pb2.Run) -> dict[str, object]:
    result: dict[str, object] = {
        "run": run.name,
        "team": run.team,
        "session": run.session,
        "state": state_name(run.state),
        "create_time": run.create_time.ToJsonString(),
        "error": run.status.message if run.HasField("status") else "",
    }
    return result | (summary_dict(run.summary) if run.HasField("summary") else {})
