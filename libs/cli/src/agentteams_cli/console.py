"""What goes to the terminal: results to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from agentteams_cli.errors import CliError

OutputFormat = Literal["text", "json"]
# A pipe has no width of its own: wide enough that no line of a table is cut.
PIPE_WIDTH = 200


class Bar(Protocol):
    """Shows how far something is."""

    def __call__(self, label: str, done: int, total: int) -> None: ...


@dataclass(slots=True)
class Output:
    """Writes text for people or JSON for programs."""

    format: OutputFormat = "text"

    @property
    def is_json(self) -> bool:
        return self.format == "json"

    def json(self, value: object) -> None:
        """One document on one line of stdout; nothing in text mode."""
        if self.is_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """A line of the result; nothing in JSON mode."""
        if not self.is_json:
            _console(sys.stdout).print(Text(text, style=style), soft_wrap=True)

    def piece(self, text: str) -> None:
        """A piece of a text that is being written; nothing in JSON mode."""
        if not self.is_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """What happens meanwhile, on stderr."""
        _console(sys.stderr).print(Text(text, style=style), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
        """A table of the result; nothing in JSON mode. Columns in `right` are numbers."""
        if self.is_json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        _console(sys.stdout).print(table)

    def error(self, error: CliError) -> None:
        """What went wrong and what to do, on stderr."""
        if self.is_json:
            document = {"message": error.message, "fix": error.fix, "exit_code": error.exit_code}
            sys.stderr.write(json.dumps({"error": document}, ensure_ascii=False) + "\n")
            return
        text = f"error: {error.message}"
        self.note(f"{text}; {error.fix}" if error.fix else text, style="bold red")
        if error.detail:
            self.note("\n".join(f"  | {line}" for line in error.detail.splitlines()))

    @contextmanager
    def progress(self, *, is_bytes: bool = False) -> Iterator[Bar]:
        """Progress bars on a terminal; elsewhere one line when something begins and one when it is done."""
        if self.is_json or not (sys.stdout.isatty() and sys.stderr.isatty()):
            yield _PlainBar(self)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if is_bytes else MofNCompleteColumn(),
        )
        with Progress(*columns, console=_console(sys.stderr), transient=False) as progress:
            yield _RichBar(progress)


class _RichBar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total or None)
        self._progress.update(self._tasks[label], completed=done, total=total or None)


class _PlainBar:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._begun: set[str] = set()
        self._done: set[str] = set()

    def __call__(self, label: str, done: int, total: int) -> None:
        if self._output.is_json:
            return
        if done < total and label not in self._begun:
            self._begun.add(label)
            self._output.note(f"{label} …")
        if total and done >= total and label in self._begun - self._done:
            self._done.add(label)
            self._output.note(f"{label}: done")


def _console(stream: object) -> Console:
    # Made anew for each use: it asks the stream whether it is a terminal, and tests replace the streams.
    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Console(
        file=stream,  # type: ignore[arg-type]
        width=None if is_terminal else PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=None,
    )
