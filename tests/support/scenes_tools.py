"""The scenes of examples/tools: one for each kind of tool."""

import importlib.util
from collections.abc import Sequence
from types import ModuleType

import msgspec

from manifests import ToolSource
from orchestrator.core.arguments import Arguments
from orchestrator.core.chat import Tool
from orchestrator.core.model import RunInput
from tests.support.golden import ROOT, Scene
from tests.support.model_script import ChatRequest, Reply, ToolCall

FOLDER = ROOT / "examples" / "tools"
APPROVED = RunInput(call_id="#2.1", approved=True, user="ada")
ANSWERED = RunInput(call_id="#1.1", answer="blue", user="ada")


def module(name: str) -> ModuleType:
    """A module of the examples, as new."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    out = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(out)
    return out


class ExampleTools:
    """The tools of the examples, without a network and without threads."""

    async def offered(self, namespace: str, source: ToolSource) -> Sequence[Tool]:
        """See Tools."""
        names = ("price",) if source.mcp is None else source.mcp.allowed_tools
        return [Tool(name=name, description="", parameters={"type": "object"}) for name in names]

    async def call(
        self, namespace: str, source: ToolSource, name: str, arguments: Arguments, *, idempotency_key: str
    ) -> str:
        """See Tools."""
        made = getattr(module("hotel_tools" if source.mcp is None else "orders_server"), name)(**arguments)
        return made if isinstance(made, str) else msgspec.json.encode(made).decode()


def _told(request: ChatRequest) -> str:
    """What the tools returned last."""
    told = [str(m["content"]) for m in request.turn if m.get("role") == "tool"]
    return told[-1] if told else ""


def _call(name: str, **arguments: object) -> Reply:
    return Reply(tool_calls=[ToolCall(name=name, arguments=arguments)])


def _mcp(request: ChatRequest) -> Reply:
    return Reply("It is on its way.") if "on its way" in _told(request) else _call("find_order", number=17)


def _approval(request: ChatRequest) -> Reply:
    told = _told(request)
    if not told:
        return _call("find_order", number=17)
    return _call("cancel_order", number=17) if "on its way" in told else Reply(f"So: {told.splitlines()[1]}")


def _python(request: ChatRequest) -> Reply:
    if not _told(request):
        return _call("price", room="double", nights=3)
    return Reply("360 euros." if '"total":360' in _told(request) else "I do not know.")


def _ask_user(request: ChatRequest) -> Reply:
    if not _told(request):
        return _call("ask_user", question="Which room?", choices=["red", "blue"])
    return Reply(f"It is booked. {_told(request)}")


SCENES = [
    Scene(
        name="tools_mcp",
        manifests="tools",
        team="orders",
        question="Where is order 17?",
        script=_mcp,
        tools=ExampleTools,
    ),
    Scene(
        name="tools_approval",
        manifests="tools",
        team="cancellations",
        question="Cancel order 17.",
        script=_approval,
        tools=ExampleTools,
        people=(APPROVED,),
    ),
    Scene(
        name="tools_python",
        manifests="tools",
        team="hotel",
        question="What do three nights in a double room cost?",
        script=_python,
        tools=ExampleTools,
    ),
    Scene(
        name="tools_ask_user",
        manifests="tools",
        team="concierge",
        question="Book me a room.",
        script=_ask_user,
        people=(ANSWERED,),
    ),
]
