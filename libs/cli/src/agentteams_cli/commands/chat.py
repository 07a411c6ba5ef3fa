"""agentteams chat: a question to a team, or a conversation."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from datetime import timedelta

import click
from agentteams.orchestrator.v1.orchestrator_service_pb2 import TextDelta
from agentteams.session.v1 import run_pb2, run_scores_pb2, session_pb2

from agentteams_cli.attending import Attended, Terminal
from agentteams_cli.client import Client, connect, explain
from agentteams_cli.console import Output
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED
from agentteams_cli.marking import UNSUPPORTED, print_scores, scores_dict, unsupported
from agentteams_cli.render import (
    TextFollower,
    citation_dict,
    print_citations,
    print_stages,
    print_usage,
    state_name,
    summary_dict,
)
from agentteams_cli.steps import step_text
from servicekit.errors import ServiceError


@click.command("chat")
@click.argument("team")
@click.argument("question", required=False)
@click.option("--session", default="", help="Go on with this conversation (sessions/…).")
@click.option("--steps/--no-steps", default=True, help="Show tool calls and evidence.  [default: steps]")
@click.option("--stages", is_flag=True, help="Show the time of each stage.")
@click.option(
    "--wait-scores",
    type=click.IntRange(0, 600),
    default=0,
    metavar="SECONDS",
    help="Wait so long for the answer's scores, and mark its unsupported sentences.",
)
@common
@click.pass_obj
def chat_command(
    settings: Settings,
    *,
    team: str,
    question: str | None,
    session: str,
    steps: bool,
    stages: bool,
    wait_scores: int,
) -> None:
    """Ask TEAM a QUESTION; without one, hold a conversation (an empty line or Ctrl-D ends it).

    The answer goes to stdout, the steps to stderr. The exit code is 1 if there was no answer.
    """
    if session and not session.startswith("sessions/"):
        session = f"sessions/{session}"
    chat = Chat(
        settings.output, team=team, session=session, steps=steps, stages=stages, wait_scores_s=wait_scores
    )
    if question is not None:
        is_answered = run_async(_once(settings, chat, question))
    else:
        is_answered = run_async(_conversation(settings, chat))
    if not is_answered:
        click.get_current_context().exit(EXIT_FAILED)


async def _once(settings: Settings, chat: "Chat", question: str) -> bool:
    async with connect(settings.state) as client:
        return await chat.ask(client, question)


async def _conversation(settings: Settings, chat: "Chat") -> bool:
    async with connect(settings.state) as client:
        await client.team(chat.team)  # a wrong name is said before the first question
        while True:
            question = await asyncio.to_thread(_read_line)
            if not question:
                return True
            try:
                await chat.ask(client, question)
            except ServiceError as exc:
                # The conversation goes on: the next question may work.
                settings.output.error(explain(exc))


def _read_line() -> str:
    if sys.stdin.isatty():
        sys.stderr.write("\n> ")
        sys.stderr.flush()
    return sys.stdin.readline().strip()


@dataclass(slots=True)
class Chat:
    """One conversation. After the first answer its session goes on."""

    output: Output
    team: str
    session: str = ""
    steps: bool = True
    stages: bool = False
    wait_scores_s: int = 0
    _run: str = field(default="", init=False)

    async def ask(self, client: Client, question: str) -> bool:
        """Asks, shows what happens, and says whether there was an answer. Ctrl-C stops the run too."""
        run = await client.start_run(self.team, question, session=self.session)
        self.session = run.session
        try:
            return await self.show(client, run)
        except asyncio.CancelledError:
            with contextlib.suppress(ServiceError):
                await asyncio.shield(client.cancel_run(run.name))
            raise

    async def show(self, client: Client, run: run_pb2.Run) -> bool:
        """Shows a run from its beginning to its end, and whether it has an answer.

        On a terminal the user is asked what the run asks; elsewhere the command says
        how to answer, and ends: nobody is there.

        Raises:
            Waiting: The run waits for a person.
        """
        printer = _Printer(self.output, steps=self.steps)
        answer, finished = session_pb2.Message(), run_pb2.RunFinished()
        async with contextlib.aclosing(Attended(client, run.name, Terminal.here()).items()) as items:
            async for item in items:
                if isinstance(item, TextDelta):
                    printer.delta(item)
                    continue
                printer.step(item)
                kind = item.WhichOneof("event")
                if kind == "message_completed" and not item.member:
                    answer = item.message_completed.message
                    printer.answer(answer.content)
                elif kind == "run_finished":
                    finished = item.run_finished
        printer.end()
        citations = [citation_dict(c) for c in answer.citations]
        summary = summary_dict(finished.summary)
        state = state_name(finished.state)
        scores: run_scores_pb2.RunScores | str = ""
        if self.wait_scores_s and finished.state == run_pb2.RUN_STATE_SUCCEEDED:
            scores = await client.scores.awaited(run.name, within=timedelta(seconds=self.wait_scores_s))
        self.output.json(
            {
                "run": run.name,
                "session": run.session,
                "status": state,
                "answer": answer.content,
                "citations": citations,
                "error": finished.status.message,
                **summary,
                **({"scores": _scores_dict(scores)} if scores else {}),
            }
        )
        if finished.state != run_pb2.RUN_STATE_SUCCEEDED:
            if not self.output.is_json:
                self.output.note(f"{state}: {finished.status.message}", style="bold red")
        elif not self.output.is_json:
            self.output.line()
            print_citations(self.output, citations)
            print_usage(self.output, summary["usage"])
            _show_scores(self.output, answer.content, scores)
        if self.stages:
            print_stages(self.output, summary["stages"])
        return bool(answer.content) and finished.state == run_pb2.RUN_STATE_SUCCEEDED


def _scores_dict(scores: run_scores_pb2.RunScores | str) -> dict[str, object]:
    return {"missing": scores} if isinstance(scores, str) else scores_dict(scores)


def _show_scores(output: Output, answer: str, scores: run_scores_pb2.RunScores | str) -> None:
    """The answer's unsupported sentences; it stands above already, as it was written."""
    if isinstance(scores, str):
        if scores:
            output.note(scores)
        return
    for sentence in unsupported(answer, scores):
        output.line(f"{UNSUPPORTED} {sentence}", "yellow")
    print_scores(output, scores)


class _Printer:
    """Streams the leader's texts to stdout, with the steps between them on stderr."""

    def __init__(self, output: Output, *, steps: bool) -> None:
        self._output = output
        self._steps = steps
        self._texts = TextFollower()
        self._message = ""
        self._open_line = False
        self._printed = ""

    def delta(self, delta: TextDelta) -> None:
        if delta.member:
            return  # a member's draft: its steps are shown, the answer is the leader's
        new, is_anew = self._texts.feed(delta)
        if is_anew or (self._message and delta.message != self._message):
            self.end()
            self._printed = ""
            if is_anew:
                self._output.note("[the model was asked again; the answer begins anew]")
        self._message = delta.message
        if new:
            self._output.piece(new)
            self._printed += new
            self._open_line = not new.endswith("\n")

    def step(self, event: run_pb2.RunEvent) -> None:
        text = step_text(event)
        if text and self._steps and not self._output.is_json:
            self.end()
            self._output.note(f"· {text}")

    def answer(self, content: str) -> None:
        """The whole answer: what was not streamed of it (or not as it ended up) is printed now."""
        if self._printed.strip() == content.strip():
            return
        rest = content.removeprefix(self._printed) if content.startswith(self._printed) else ""
        if not rest:
            self.end()
            rest = content
        self._output.piece(rest)
        self._printed = content
        self._open_line = not rest.endswith("\n")

    def end(self) -> None:
        """Ends an open line."""
        if self._open_line:
            self._output.piece("\n")
            self._open_line = False
