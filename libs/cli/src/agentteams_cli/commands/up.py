"""agentteams up: everything on this machine."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from agentteams_cli.asking import ask, show
from agentteams_cli.client import Client, connect
from agentteams_cli.commands import ingest
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, CliError, StackError
from agentteams_cli.ingesting import find_files
from agentteams_cli.ingesting import ingest as ingest_files
from agentteams_cli.manifests_store import (
    Loaded,
    load_all,
    manifest_files,
    store,
    stored_files,
    take_effect,
)
from agentteams_cli.models import LOCAL, BuiltIn, from_environment, provide
from agentteams_cli.ports import DEFAULT_PORTS, parse_ports
from agentteams_cli.stack import Stack, StackConfig
from agentteams_cli.tracing import collector_url, trace_env
from servicekit.errors import NotFound

QUESTION = "How does the evidence ledger save searches?"
QUESTION_ABOUT_YOURS = "What are these documents about?"
TEAM = "docs-team"
KNOWLEDGE_BASE = "docs"
# This file is <repository>/libs/cli/src/agentteams_cli/commands/up.py.
REPOSITORY = Path(__file__).parents[5]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What `up` was asked for."""

    docs: Path | None
    manifests: Path | None
    question: str | None
    demo: bool
    ports: dict[str, int]
    log_level: str
    otlp: str = ""


@click.command("up")
@click.option(
    "--docs",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or file to ingest.  [default: the project's docs/]",
)
@click.option(
    "--manifests",
    type=click.Path(exists=True, path_type=Path),
    help="Manifests to apply.  [default: examples/quickstart]",
)
@click.option("--ask", "question", default=None, help="The question to ask.  [default: a sample question]")
@click.option("--no-ask", is_flag=True, help="Ask nothing.")
@click.option("--demo", is_flag=True, help="Stop after the answer; exit code 1 if there was none.")
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="SERVICE=PORT",
    help=f"Listen elsewhere; 0 picks a free port. Services: {', '.join(DEFAULT_PORTS)}.",
)
@click.option(
    "--free-ports", is_flag=True, help="Pick a free port for every service that --port does not name."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--otlp",
    metavar="URL",
    default="",
    envvar="AGENTTEAMS_OTLP_ENDPOINT",
    callback=lambda _context, _option, value: collector_url(value),
    help="Send the trace of every turn to this OpenTelemetry collector (OTLP over gRPC), "
    "such as http://127.0.0.1:4317.  [default: AGENTTEAMS_OTLP_ENDPOINT]",
)
@common
@click.pass_obj
def up_command(
    settings: Settings,
    *,
    docs: Path | None,
    manifests: Path | None,
    question: str | None,
    no_ask: bool,
    demo: bool,
    ports: tuple[str, ...],
    free_ports: bool,
    log_level: str,
    otlp: str,
) -> None:
    """Start every service, apply the quickstart, ingest documents, ask a question, and serve until Ctrl-C.

    Everything listens on 127.0.0.1 and is kept in the state folder, so that the second start has the data of
    the first. With OPENAI_API_KEY (and OPENAI_BASE_URL, OPENAI_MODEL, OPENAI_EMBEDDING_MODEL) set, that
    endpoint is used (for chat only, if OPENAI_EMBEDDING_MODEL=local); without, local models are fetched
    once.
    """
    if demo and no_ask:
        raise click.UsageError("--demo ends after an answer, and --no-ask asks for none: give one of them")
    chosen = dict.fromkeys(DEFAULT_PORTS, 0) if free_ports else {}
    if not no_ask and question is None:
        question = QUESTION if docs is None else QUESTION_ABOUT_YOURS
    options = UpOptions(
        docs=docs,
        manifests=manifests,
        question=None if no_ask else question,
        demo=demo,
        ports=chosen | parse_ports(ports),
        log_level=log_level,
        otlp=otlp,
    )
    code = run_async(Up(settings, options).run())
    click.get_current_context().exit(code)


class Up:
    """One start of everything until its end."""

    def __init__(self, settings: Settings, options: UpOptions) -> None:
        self._settings = settings
        self._output = settings.output
        self._options = options
        self._is_serving = False

    async def run(self) -> int:
        """Returns the exit code. However it ends, no child is left."""
        with _stop_on_signals() as stop:
            work = asyncio.create_task(self._start_and_serve(), name="up")
            signalled = asyncio.create_task(stop.wait(), name="signals")
            await asyncio.wait((work, signalled), return_when=asyncio.FIRST_COMPLETED)
            signalled.cancel()
            if work.done():
                return work.result()
            self._output.note("\nstopping …")
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            # To be stopped is how serving ends; to be stopped before is not what was asked for.
            return 0 if self._is_serving else EXIT_INTERRUPTED

    async def _start_and_serve(self) -> int:
        models = await provide(self._output)
        self._output.note(f"Model: {models.why}")
        stack = Stack(self._config(models))
        try:
            await stack.start(self._on_progress)
            failed = asyncio.create_task(stack.wait_failed(), name="stack-failed")
            session = asyncio.create_task(self._session(stack), name="session")
            await asyncio.wait((failed, session), return_when=asyncio.FIRST_COMPLETED)
            if session.done():
                failed.cancel()
                return session.result()
            session.cancel()
            await asyncio.wait([session])
            raise failed.result()
        finally:
            await stack.stop()

    def _config(self, models: BuiltIn) -> StackConfig:
        return StackConfig(
            state_dir=self._settings.state_dir,
            chat=models.chat,
            embedding=models.embedding,
            chat_model=models.chat_model,
            ports=self._options.ports,
            log_level=self._options.log_level,
            extra_env=trace_env(self._options.otlp, os.environ),
        )

    def _on_progress(self, service: str, state: str, detail: str) -> None:
        if state in ("ready", "died", "not ready"):
            style = "dim" if state == "ready" else "yellow"
            self._output.note(f"{service:<12} {state:<8} {detail}", style=style)

    async def _session(self, stack: Stack) -> int:
        await self._apply()
        await self._ingest()
        is_answered = True
        if self._options.question is not None:
            is_answered = await self._ask(stack, self._options.question)
        if self._options.demo:
            return 0 if is_answered else EXIT_FAILED
        self._say_what_next(stack)
        self._is_serving = True
        await asyncio.Event().wait()
        return 0

    async def _apply(self) -> None:
        given = self._options.manifests or _project_folder("examples/quickstart")
        loaded = load_all(manifest_files([given])) if given is not None else Loaded()
        applied = store(self._settings.state, loaded)
        for problem in loaded.problems:
            self._output.note(str(problem), style="red")
        changed = ", ".join(f"{a.kind.lower()}/{a.name} {a.change}" for a in applied)
        self._output.note(f"Manifests: {changed or 'none'}")
        # All that is stored, and not only what came now: an `apply` without services waits for this.
        everything = load_all(stored_files(self._settings.state))
        broken = {(a.kind, a.name) for a in applied if a.problems}
        ready = [
            o.resource
            for o in everything.objects
            if (o.resource.kind, o.resource.metadata.name) not in broken
        ]
        async with connect(self._settings.state) as client:
            config_maps = self._settings.state.config_maps
            for trouble in await take_effect(client, ready, config_maps=config_maps):
                self._output.note(trouble, style="red")

    async def _ingest(self) -> None:
        docs = self._options.docs or _project_folder("docs")
        if docs is None:
            self._output.note(
                "No documents: give some with --docs PATH or `agentteams ingest`.", style="yellow"
            )
            return
        files = find_files([docs])
        async with connect(self._settings.state) as client:
            await _must_be_there(client)
            with self._output.progress() as bar:
                results = await ingest_files(client, KNOWLEDGE_BASE, files, wait=True, bar=bar)
        ingest.report(self._output, KNOWLEDGE_BASE, results)

    async def _ask(self, stack: Stack, question: str) -> bool:
        output = self._output
        output.line()
        output.line(f"> {question}", style="bold")
        try:
            answer = await ask(output, base_url=stack.gateway_url, team=TEAM, question=question)
        except CliError as exc:
            output.error(exc)
            return False
        show(output, answer)
        output.json({"question": question, "answer": answer.text, "agentteams": dict(answer.details)})
        if not answer.is_good:
            output.error(StackError("the run ended without an answer", fix="see `agentteams runs list`"))
        return answer.is_good

    def _say_what_next(self, stack: Stack) -> None:
        state = self._settings.state_dir
        option = "" if state == Settings().state_dir else f" --state {state}"
        output = self._output
        output.line()
        output.line(f"Serving on {stack.gateway_url} until Ctrl-C. Ask the next question:", style="bold")
        output.line(f'  agentteams chat {TEAM} "…"{option}')
        output.line(
            f"  curl {stack.gateway_url}/chat/completions -H 'Content-Type: application/json' "
            f'-d \'{{"model": "{TEAM}", "messages": [{{"role": "user", "content": "…"}}]}}\''
        )
        output.line(f"  any OpenAI client: base_url {stack.gateway_url}, model {TEAM}, any key")


def _project_folder(name: str) -> Path | None:
    """A folder of the project: below the current folder, else of the repository that this runs from."""
    for root in (Path.cwd(), REPOSITORY):
        if (root / name).is_dir():
            return root / name
    return None


async def _must_be_there(client: Client) -> None:
    """Says so once, and not for each document."""
    try:
        await client.knowledge_base(KNOWLEDGE_BASE)
    except NotFound as exc:
        fix = "its problem stands above; without one, add the KnowledgeBase to the manifests"
        if from_environment() is not None:
            fix += "; if the endpoint has no such model for embeddings, set OPENAI_EMBEDDING_MODEL to one "
            fix += f"that it has, or to {LOCAL}"
        raise CliError(
            f"no documents can be indexed: KnowledgeBase {KNOWLEDGE_BASE} is missing", fix=fix
        ) from exc


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
