"""Python functions as tools: schemas from their types, checked arguments, deadlines, refusals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests import Catalogue, ToolSource
from orchestrator.adapters.python_tools import PythonTools
from orchestrator.core.arguments import BadArguments
from orchestrator.core.tools import ToolFailed
from servicekit.errors import FailedPrecondition

MODULE = '''
import threading
from datetime import date
from typing import Annotated, Literal
from pydantic import BaseModel, Field
from os.path import join

class Guest(BaseModel):
    name: str
    age: int = 30

def book(guest: Guest, day: date, nights: Annotated[int, Field(ge=1)] = 1, *, idempotency_key: str) -> dict:
    """Books a room."""
    return {"guest": guest.name, "day": day, "nights": nights, "key": idempotency_key}

async def unit(of: Literal["metre", "gram"]) -> str:
    return of[0]

def slow() -> str:
    threading.Event().wait(3)
    return "late"

def broken() -> None:
    raise KeyError("no such room")

def _hidden() -> None:
    pass
'''


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[PythonTools]:
    # No name that an example has: a module that was imported once is not read again.
    (tmp_path / "booking_tools.py").write_text(MODULE)
    (tmp_path / "untyped_tools.py").write_text("def find(room): return room\n")
    (tmp_path / "empty_tools.py").write_text("x = 1\n")
    (tmp_path / "bad_tools.py").write_text("import nowhere_to_be_found\n")
    out = PythonTools(tmp_path)
    yield out
    out.close()


def source(module: str = "booking_tools", **fields: Any) -> ToolSource:
    return ToolSource.model_validate({"name": "hotel", "python": {"module": module, **fields}})


async def call(tools: PythonTools, name: str, **arguments: object) -> str:
    hotel = source(timeoutSeconds=1)
    assert hotel.python is not None
    await tools.offered(hotel, hotel.python)
    return await tools.call(hotel, hotel.python, name=name, arguments=arguments, key="k1")


async def test_functions_of_the_module_are_offered_with_schemas(tools: PythonTools) -> None:
    hotel = source()
    assert hotel.python is not None
    offered = {tool.name: tool for tool in await tools.offered(hotel, hotel.python)}
    assert list(offered) == ["book", "unit", "slow", "broken"]
    assert offered["book"].description == "Books a room."
    schema: Any = offered["book"].parameters
    assert schema["required"] == ["guest", "day"]
    assert schema["properties"]["nights"]["minimum"] == 1
    assert "idempotency_key" not in schema["properties"]
    assert schema["additionalProperties"] is False


async def test_arguments_become_what_the_types_say_and_the_result_is_text(tools: PythonTools) -> None:
    made = await call(tools, "book", guest={"name": "Ada"}, day="2026-01-02", nights=2)
    assert made == '{"guest":"Ada","day":"2026-01-02","nights":2,"key":"k1"}'
    assert await call(tools, "unit", of="gram") == "g"


async def test_arguments_that_no_schema_can_refuse_are_refused_by_the_types(tools: PythonTools) -> None:
    with pytest.raises(BadArguments, match="day: Input should be a valid date"):
        await call(tools, "book", guest={"name": "Ada"}, day="soon")


async def test_a_function_has_only_so_long(tools: PythonTools) -> None:
    with pytest.raises(ToolFailed, match="slow could not be called: it took longer than 1 s"):
        await call(tools, "slow")


async def test_what_a_function_raises_is_told_to_the_model(tools: PythonTools) -> None:
    with pytest.raises(ToolFailed, match="broken reports an error:\n<tool_result>\nKeyError: 'no such room'"):
        await call(tools, "broken")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("untyped_tools", "find: parameter room has no type"),
        ("empty_tools", "defines no function"),
        ("bad_tools", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("missing_tools", "ModuleNotFoundError: No module named 'missing_tools'"),
    ],
)
async def test_a_module_that_cannot_be_used_is_no_empty_list(
    tools: PythonTools, module: str, words: str
) -> None:
    hotel = source(module)
    assert hotel.python is not None
    with pytest.raises(FailedPrecondition) as caught:
        await tools.offered(hotel, hotel.python)
    assert caught.value.reason == "TOOL_FAILED"
    assert words in caught.value.message


async def test_nothing_is_imported_unless_the_process_allows_it() -> None:
    tools, hotel = PythonTools(None), source()
    assert hotel.python is not None
    with pytest.raises(FailedPrecondition, match="only in local mode"):
        await tools.offered(hotel, hotel.python)
    tools.close()


def test_a_team_with_modules_is_not_ready_where_they_are_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("""\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  modelConfigRef: {name: chat}
  members: [{name: a, tools: [hotel]}]
  tools: [{name: hotel, python: {module: booking_tools}}]
""")
    allowed, refused = Catalogue(tmp_path), Catalogue(tmp_path, python_tools=False)
    allowed.load()
    refused.load()
    assert allowed.team_problems("default", "t") == []
    (problem,) = refused.team_problems("default", "t")
    assert problem.startswith("spec.tools[0].python: module booking_tools is not imported here")
