"""Arguments of tool calls: JSON as a model wrote it, checked against the tool's schema."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from orchestrator.core.chat import Tool
from orchestrator.core.structured import problem

if TYPE_CHECKING:
    from jsonschema_rs import Validator

Arguments = Mapping[str, object]
_MAX_PROBLEMS = 5
_MAX_SCHEMAS = 512


class BadArguments(Exception):
    """The model called a tool wrongly; the text tells it how to do it right."""


def read(tool: Tool, written: str) -> Arguments:
    """The arguments of a call. Raises BadArguments."""
    try:
        # Stricter than json.loads: what the log cannot hold (NaN, half a surrogate pair) is refused.
        arguments = msgspec.json.decode(written or "{}")
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise BadArguments(f"The arguments of {tool.name} are not valid JSON ({error}).") from error
    if not isinstance(arguments, dict):
        raise BadArguments(f"The arguments of {tool.name} must be a JSON object.")
    errors = islice(_validator(msgspec.json.encode(tool.parameters)).iter_errors(arguments), _MAX_PROBLEMS)
    problems = [problem(error.instance_path, error.message) for error in errors]
    if problems:
        raise BadArguments(f"The arguments of {tool.name} do not fit its schema: {'; '.join(problems)}.")
    return arguments


@lru_cache(maxsize=_MAX_SCHEMAS)
def _validator(schema: bytes) -> "Validator":
    from jsonschema_rs import RegexOptions, validator_for  # noqa: PLC0415  10 MB

    return validator_for(msgspec.json.decode(schema), offline=True, pattern_options=RegexOptions())
