"""What was said to a model and what it said, for traces of installations that want it; without secrets."""

import json
import re
from collections.abc import Mapping, Sequence

from orchestrator.core.chat import Completion, Prompt

CONTENT_EVENT = "gen_ai.client.inference.operation.details"
MAX_CHARS = 8_000  # of the messages to a model, and of its answer; what is older goes first
MASK = "[secret]"

# Keys by their well known forms, and whatever is called one.
_SECRET = re.compile(
    r"""(?x)
    -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
    | \bxox[abprs]-[\w-]{10,} | \bAKIA[0-9A-Z]{16}\b | \bAIza[\w-]{30,}
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*
    | (?<=://)[^/\s:@]+:[^/\s:@]+(?=@)
    | (?i:(?<=bearer\s)|(?<=basic\s))[\w.~+/=-]{8,}
    """,
    re.DOTALL,
)
_CALLED = re.compile(
    r"""(?ix)
    ( (?:api[_-]?key|secret|passw(?:or)?d|token|credential)s? ["']? \s* [:=] \s* ["']? ) [^\s"',;]{4,}
    """
)


def content(prompts: Sequence[Prompt], done: Completion) -> Mapping[str, str]:
    """Attributes of the event that holds it, as the GenAI conventions name them."""
    said, left = [], MAX_CHARS
    for prompt in reversed(prompts):
        text = masked(prompt.content)[: max(0, left)]
        left -= len(text)
        said.append({"role": prompt.role, "parts": [{"type": "text", "content": text}]})
        if left <= 0:
            break
    parts: list[Mapping[str, str]] = []
    if done.text:
        parts.append({"type": "text", "content": masked(done.text)[:MAX_CHARS]})
    for call in done.tool_calls:
        arguments = masked(call.arguments)[:MAX_CHARS]
        parts.append({"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments})
    answer = [{"role": "assistant", "parts": parts, "finish_reason": done.finish_reason}]
    return {
        "gen_ai.input.messages": json.dumps(said[::-1], ensure_ascii=False),
        "gen_ai.output.messages": json.dumps(answer, ensure_ascii=False),
    }


def masked(text: str) -> str:
    """The text without what looks like a secret."""
    return _CALLED.sub(rf"\1{MASK}", _SECRET.sub(MASK, text))
