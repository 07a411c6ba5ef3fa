"""The scenes of examples/modes: one for each way in which a team can answer."""

from tests.support.golden import Scene
from tests.support.model_script import ChatRequest, Reply, ToolCall

DOCUMENTS = {"terms": "The warranty lasts two years.", "faq": "Batteries are excluded."}
QUESTION = "How long is the warranty?"


def _call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


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


SCENES = [
    Scene(
        name="coordinate",
        manifests="modes",
        team="coordinate",
        question=QUESTION,
        script=_coordinate,
        documents=DOCUMENTS,
    ),
]
