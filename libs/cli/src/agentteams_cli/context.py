"""What every command has: where the state is, and how to print."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from agentteams_cli.client import explain
from agentteams_cli.console import Output, OutputFormat
from agentteams_cli.errors import EXIT_INTERRUPTED, CliError
from agentteams_cli.state import StateFolder
from servicekit.errors import ServiceError

DEFAULT_STATE = ".agentteams"
Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


@dataclass(slots=True)
class Settings:
    """The options that every command has."""

    state_dir: Path = field(default_factory=lambda: Path(os.environ.get("AGENTTEAMS_STATE") or DEFAULT_STATE))
    output: Output = field(default_factory=Output)

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.state_dir.absolute())


def _set_state(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Settings).state_dir = value


def _set_output(context: click.Context, _: click.Parameter, value: OutputFormat | None) -> None:
    if value is not None:
        context.ensure_object(Settings).output.format = value


def common(command: Command) -> Command:
    """The options of every command; they can also stand before its name."""
    state = click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        expose_value=False,
        callback=_set_state,
        help=f"Folder that holds everything.  [default: {DEFAULT_STATE}; env: AGENTTEAMS_STATE]",
    )
    output = click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        expose_value=False,
        callback=_set_output,
        help="text for people, json for programs.  [default: text]",
    )
    return state(output(command))


class Group(click.Group):
    """Turns our errors into one line and an exit code; lists commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServiceError as exc:
            error = explain(exc)
        except CliError as exc:
            error = exc
        except KeyboardInterrupt:
            return ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            return ctx.exit(EXIT_INTERRUPTED)  # `agentteams … | head`
        ctx.ensure_object(Settings).output.error(error)
        return ctx.exit(error.exit_code)


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's work. Ctrl-C cancels it and raises KeyboardInterrupt."""
    try:
        return asyncio.run(main)
    except ExceptionGroup as group:
        # A group of ours has one cause; the others were cancelled for it.
        errors = [e for e in _flat(group) if isinstance(e, CliError | ServiceError)]
        if errors:
            raise errors[0] from group
        raise


def _flat(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
