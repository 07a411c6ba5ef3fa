"""agentteams runs: what was asked, what waits for a person, and where the time went."""

import click
from agentteams.session.v1 import run_pb2, run_scores_pb2

from agentteams_cli.client import Client, connect
from agentteams_cli.commands.chat import Chat
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED, UsageProblem
from agentteams_cli.marking import marked, print_scores, scores_dict
from agentteams_cli.render import (
    citation_dict,
    full_name,
    milliseconds,
    print_citations,
    print_stages,
    print_usage,
    state_name,
    summary_dict,
    time_text,
    to_dict,
    when,
)
from agentteams_cli.steps import step_text

_STATES = [state_name(state) for state in run_pb2.RunState.values() if state]


@click.group("runs")
def runs_command() -> None:
    """What was asked, what waits for a person, and where the time went."""


@runs_command.command("list")
@click.option("--team", default="", help="Only runs of this team.")
@click.option(
    "--in-state",
    type=click.Choice(_STATES),
    help="Only runs in this state, such as waiting.",
)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most runs.")
@common
@click.pass_obj
def list_command(settings: Settings, team: str, in_state: str | None, limit: int) -> None:
    """List the newest runs."""
    runs = run_async(_list(settings, team, in_state or "", limit))
    settings.output.json({"runs": [_run_dict(run) for run in runs]})
    settings.output.table(
        ["run", "team", "state", "started", "time", "searches", "saved", "tokens"],
        [
            [
                run.name,
                run.team.removeprefix("teams/"),
                state_name(run.state),
                when(run.create_time),
                time_text(milliseconds(run.summary.duration)) if run.HasField("summary") else "",
                str(run.summary.usage.searches),
                str(run.summary.usage.searches_saved),
                str(run.summary.usage.input_tokens + run.summary.usage.output_tokens),
            ]
            for run in runs
        ],
        right=["time", "searches", "saved", "tokens"],
    )


async def _list(settings: Settings, team: str, state: str, limit: int) -> list[run_pb2.Run]:
    async with connect(settings.state) as client:
        return await client.runs(team=team, state=state, limit=limit)


@runs_command.command("show")
@click.argument("run")
@common
@click.pass_obj
def show_command(settings: Settings, run: str) -> None:
    """Show the steps of RUN, its answer, and the time of each stage."""
    found, events, scores = run_async(_show(settings, full_name("runs", run)))
    output = settings.output
    output.json(
        {
            "run": _run_dict(found),
            "events": [to_dict(event) for event in events],
            "scores": None if scores is None else scores_dict(scores),
        }
    )
    output.line(f"{found.name}  {found.team.removeprefix('teams/')}  {state_name(found.state)}", "bold")
    answers = [e.message_completed.message for e in events if e.WhichOneof("event") == "message_completed"]
    for event in events:
        text = step_text(event)
        if text:
            output.line(f"  {event.sequence:>3}  {text}")
    for answer, event in zip(answers, _completed(events), strict=True):
        if not event.member:
            output.line()
            output.line(marked(answer.content, scores))
            output.line()
            print_citations(output, [citation_dict(c) for c in answer.citations])
    if scores is not None:
        print_scores(output, scores)
    if found.HasField("status") and found.status.code:
        output.line(f"failed: {found.status.message}", "red")
    if found.HasField("summary"):
        summary = summary_dict(found.summary)
        print_usage(output, summary["usage"])
        print_stages(output, summary["stages"])


def _completed(events: list[run_pb2.RunEvent]) -> list[run_pb2.RunEvent]:
    return [e for e in events if e.WhichOneof("event") == "message_completed"]


async def _show(
    settings: Settings, name: str
) -> tuple[run_pb2.Run, list[run_pb2.RunEvent], run_scores_pb2.RunScores | None]:
    async with connect(settings.state) as client:
        return await client.run(name), await client.run_events(name), await client.scores.of_run(name)


@runs_command.command("follow")
@click.argument("run")
@common
@click.pass_obj
def follow_command(settings: Settings, run: str) -> None:
    """Show what has happened in RUN and what happens until it ends. Ctrl-C leaves it alone."""

    async def work() -> bool:
        async with connect(settings.state) as client:
            found = await client.run(full_name("runs", run))
            chat = Chat(settings.output, team=found.team.removeprefix("teams/"))
            return await chat.show(client, found)

    if not run_async(work()):
        click.get_current_context().exit(EXIT_FAILED)


@runs_command.command("cancel")
@click.argument("run")
@common
@click.pass_obj
def cancel_command(settings: Settings, run: str) -> None:
    """Stop RUN; what it has produced is kept."""
    name = full_name("runs", run)

    async def work() -> None:
        async with connect(settings.state) as client:
            await client.cancel_run(name)

    run_async(work())
    settings.output.json({"cancelled": name})
    settings.output.line(f"{name} is stopping")


@runs_command.command("approve")
@click.argument("run")
@click.argument("call", required=False)
@click.option("--reason", default="", help="Why; the model is told.")
@common
@click.pass_obj
def approve_command(settings: Settings, run: str, call: str | None, reason: str) -> None:
    """Allow the tool call CALL that RUN waits for; CALL may be left out if there is only one."""
    _decide(settings, run, call, approved=True, reason=reason)


@runs_command.command("reject")
@click.argument("run")
@click.argument("call", required=False)
@click.option("--reason", default="", help="Why; the model is told.")
@common
@click.pass_obj
def reject_command(settings: Settings, run: str, call: str | None, reason: str) -> None:
    """Refuse the tool call CALL that RUN waits for; the run goes on without it."""
    _decide(settings, run, call, approved=False, reason=reason)


@runs_command.command("answer")
@click.argument("run")
@click.argument("answer")
@click.option("--call", default=None, help="Which question, if the run has asked several.")
@common
@click.pass_obj
def answer_command(settings: Settings, run: str, answer: str, call: str | None) -> None:
    """Give RUN the ANSWER to the question that it has asked."""
    name = full_name("runs", run)

    async def work() -> str:
        async with connect(settings.state) as client:
            call_id = call or await _only_request(client, name, "question")
            await client.answer_question(name, call_id, answer)
            return call_id

    call_id = run_async(work())
    settings.output.json({"run": name, "call_id": call_id})
    settings.output.line(f"{name} goes on")


def _decide(settings: Settings, run: str, call: str | None, *, approved: bool, reason: str) -> None:
    name = full_name("runs", run)

    async def work() -> str:
        async with connect(settings.state) as client:
            call_id = call or await _only_request(client, name, "approval")
            await client.approve(name, call_id, approved=approved, reason=reason)
            return call_id

    call_id = run_async(work())
    settings.output.json({"run": name, "call_id": call_id, "approved": approved})
    settings.output.line(f"{call_id} {'approved' if approved else 'refused'}; {name} goes on")


async def _only_request(client: Client, run: str, kind: str) -> str:
    """What the run waits for, if it is one thing. Raises UsageProblem."""
    open_calls: list[str] = []
    for event in await client.run_events(run):
        if event.HasField("input_requested") and event.input_requested.WhichOneof("request") == kind:
            open_calls.append(event.input_requested.call_id)
        elif event.HasField("input_provided") and event.input_provided.input.call_id in open_calls:
            open_calls.remove(event.input_provided.input.call_id)
    if len(open_calls) == 1:
        return open_calls[0]
    if not open_calls:
        raise UsageProblem(f"{run} waits for no {kind}", fix=f"`agentteams runs show {run}` shows its steps")
    raise UsageProblem(f"{run} waits for several: {', '.join(open_calls)}", fix="say which one")


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
