"""Typed Python functions as tools: for teams on one machine, whose modules are the user's own."""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from manifests import PythonModule, ToolSource, schema_problem
from orchestrator.core import prompts
from orchestrator.core.arguments import Arguments, BadArguments
from orchestrator.core.chat import Tool
from orchestrator.core.tools import ToolFailed
from servicekit.errors import FailedPrecondition, ServiceError

log = structlog.get_logger()

_MAX_THREADS = 8
_MAX_DESCRIPTION = 1024
_KEY = "idempotency_key"  # a parameter of this name is ours to fill


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    tool: Tool
    call: Callable[..., Any]
    arguments: type[BaseModel]
    wants_key: bool


class PythonTools:
    """Calls functions of modules.

    Args:
        folder: Where modules may be imported from besides what is installed; None: nothing is imported.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._modules: dict[str, dict[str, _Function]] = {}
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="python-tools")

    async def offered(self, source: ToolSource, python: PythonModule) -> Sequence[Tool]:
        """See Tools."""
        functions = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._read, source, python
        )
        return [function.tool for function in functions.values()]

    async def call(
        self, source: ToolSource, python: PythonModule, *, name: str, arguments: Arguments, key: str
    ) -> str:
        """See Tools. A function that is not async works on in its thread when its time is over."""
        function = self._read(source, python)[name]
        try:
            values = dict(function.arguments.model_validate(arguments))
        except ValidationError as error:
            raise BadArguments(f"The arguments of {name} are wrong: {_first(error)}.") from error
        if function.wants_key:
            values[_KEY] = key
        try:
            async with asyncio.timeout(python.timeout_seconds):
                return _text(await self._run(function.call, values))
        except TimeoutError as error:
            why = f"it took longer than {python.timeout_seconds} s"
            raise ToolFailed(prompts.tool_away(name, why), _failed(source, name, why)) from error
        except Exception as error:
            # Whatever the user's code raises: the model is told what it says.
            log.warning("python_tool_failed", tool=name, error=type(error).__name__)
            why = f"{type(error).__name__}: {error}"
            raise ToolFailed(prompts.tool_error(name, why), _failed(source, name, why[:300])) from error

    async def _run(self, call: Callable[..., Any], values: dict[str, Any]) -> object:
        if inspect.iscoroutinefunction(call):
            return await call(**values)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(**values))

    def _read(self, source: ToolSource, python: PythonModule) -> dict[str, _Function]:
        name = python.module
        if self._folder is None:
            raise _refused(
                source, "modules are tools only in local mode (AGENTTEAMS_PYTHON_TOOLS_DIR is not set)"
            )
        if name not in self._modules:
            if str(self._folder) not in sys.path:
                sys.path.append(str(self._folder))
            try:
                importlib.invalidate_caches()
                module = importlib.import_module(name)
                found = [value for key, value in vars(module).items() if _is_tool(key, value, name)]
                functions = [_function(value) for value in found]
            except Exception as error:
                why = f"module {name} cannot be used: {type(error).__name__}: {error}"
                raise _refused(source, why) from error
            if not functions:
                raise _refused(source, f"module {name} defines no function whose name does not begin with _")
            self._modules[name] = {function.tool.name: function for function in functions}
        return self._modules[name]

    def close(self) -> None:
        """Ends the threads; waits for none."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_tool(name: str, value: object, module: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module and not name.startswith("_")


def _function(call: Callable[..., Any]) -> _Function:
    """Raises TypeError if its types do not say what it takes."""
    hints = get_type_hints(call, include_extras=True)
    fields: dict[str, Any] = {}
    parameters = inspect.signature(call).parameters.values()
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{call.__name__}: parameter {parameter.name} must be one that is passed by name")
        if parameter.name == _KEY:
            continue
        if parameter.name not in hints:
            raise TypeError(f"{call.__name__}: parameter {parameter.name} has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    arguments = create_model(f"{call.__name__}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    schema = arguments.model_json_schema()
    problem = schema_problem(schema)
    if problem:
        raise TypeError(f"{call.__name__}: its schema {problem}")
    description = inspect.getdoc(call) or call.__name__
    return _Function(
        tool=Tool(name=call.__name__, description=description[:_MAX_DESCRIPTION], parameters=schema),
        call=call,
        arguments=arguments,
        wants_key=_KEY in hints,
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(TypeAdapter(Any).dump_python(value, mode="json")).decode()


def _first(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])


def _refused(source: ToolSource, why: str) -> ServiceError:
    return FailedPrecondition(
        f"tools {source.name}: {why}", reason="TOOL_FAILED", metadata={"server": source.name}
    )


def _failed(source: ToolSource, name: str, why: str) -> ServiceError:
    return FailedPrecondition(
        f"tool {name} of {source.name}: {why}",
        reason="TOOL_FAILED",
        metadata={"tool": name, "server": source.name},
    )
