"""The scenes of examples/modes: one for each way in which a team can answer."""

from collections.abc import Callable

from tests.support.golden import Scene
from tests.support.model_script import ChatRequest, Reply, ToolCall

QUESTION = "How long is the warranty?"


def _call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def _system(request: ChatRequest) -> str:
    return str(request.messages[0]["content"])


def _told(request: ChatRequest) -> list[str]:
    """What the tools of this turn returned."""
    return [str(m["content"]) for m in request.turn if m.get("role") == "tool"]


def _searches_then(request: ChatRequest, report: str) -> Reply:
    """A member that searches once, then reports."""
    if "search_knowledge" in request.tools and not request.called("search_knowledge"):
        return Reply("I look it up.", tool_calls=[_call("search_knowledge", query="warranty period")])
    return Reply(report)


def _coordinate(request: ChatRequest) -> Reply:
    if "delegate_task" in request.tools:
        asked = [call["member"] for call in request.called("delegate_task")]
        if not asked:
            return Reply(tool_calls=[_call("delegate_task", member="researcher", task="Find the period.")])
        if asked == ["researcher"]:
            return Reply(tool_calls=[_call("delegate_task", member="critic", task="What is missing?")])
        return Reply("Two years [1]; not for batteries [2].")
    if "Find the period." in request.last_user_text:
        return _searches_then(request, "It lasts two years [1].")
    return Reply("Say that batteries are excluded [2].")


def _route(request: ChatRequest) -> Reply:
    if "choose_member" in request.tools:
        return Reply(tool_calls=[_call("choose_member", member="support")])
    return _searches_then(request, "The warranty lasts two years [1].")


def _broadcast(request: ChatRequest) -> Reply:
    if "You lead a team" in _system(request):
        assert [f'<report by="{name}">' in request.last_user_text for name in ("lawyer", "buyer", "seller")]
        return Reply("Two years [1]; ask about batteries [2].")
    views = {"lawyer": "Two years [1].", "buyer": "Mind the batteries [2].", "seller": "We are generous."}
    role = {"what the terms mean": "lawyer", "buyer should mind": "buyer", "seller would": "seller"}
    return Reply(next(views[name] for words, name in role.items() if words in _system(request)))


def _tasks(request: ChatRequest) -> Reply:
    if "add_tasks" in request.tools:
        told = _told(request)
        if not told:
            first = {"member": "researcher", "text": "Find the period."}
            second = {"member": "researcher", "text": "Find what is excluded."}
            text = {"member": "writer", "text": "Write it up.", "depends_on": [1, 2]}
            return Reply(tool_calls=[_call("add_tasks", tasks=[first, second, text])])
        if len(told) == 1:
            check = {"member": "writer", "text": "Make it one sentence.", "depends_on": [3]}
            return Reply(tool_calls=[_call("add_tasks", tasks=[check])])
        return Reply("Two years, without batteries [1][2].")
    if "Find the period." in request.last_user_text:
        return _searches_then(request, "Two years [1].")
    if "Find what is excluded." in request.last_user_text:
        return _searches_then(request, "Batteries [2].")
    return Reply(f"Written from {request.last_user_text.count('<report by=')} reports [1][2].")


def _nested(request: ChatRequest) -> Reply:
    if "delegate_task" in request.tools:
        asked = [call["member"] for call in request.called("delegate_task")]
        if not asked:
            return Reply(tool_calls=[_call("delegate_task", member="desk", task="Find the period.")])
        if asked == ["desk"]:
            return Reply(tool_calls=[_call("delegate_task", member="editor", task="Make it short.")])
        return Reply("Two years [1].")
    if "You lead a team" in _system(request):
        return Reply("The desk agrees: two years [1].")
    if "Looks in the documents." in _system(request):
        return _searches_then(request, "The terms say two years [1].")
    return Reply("Two years [1]." if "Makes it short." in _system(request) else "Two years, I believe.")


def _scene(name: str, script: Callable[[ChatRequest], Reply]) -> Scene:
    documents = {"terms": "The warranty lasts two years.", "faq": "Batteries are excluded."}
    return Scene(
        name=name, manifests="modes", team=name, question=QUESTION, script=script, documents=documents
    )


SCENES = [
    _scene("coordinate", _coordinate),
    _scene("route", _route),
    _scene("broadcast", _broadcast),
    _scene("tasks", _tasks),
    _scene("nested", _nested),
]
