"""The bytes of OpenAI's wire format.

A chunk is a prefix made once a request, the text as JSON, and a suffix: a
microsecond, where building and dumping objects takes ten times that.
"""

import time
from collections.abc import Sequence

import msgspec

from gateway.core.errors import ApiError
from gateway.core.model import Citation, NoScores, Run, RunEnded, Scores, Stage, Team, Usage

_encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": the team is at work\n\n"


class Chunks:
    """The chunks of one stream."""

    def __init__(self, *, run: Run, team: str, created: int, include_usage: bool) -> None:
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b' % (
            _encode(completion_id(run)),
            created,
            _encode(team),
        )
        self._usage = b',"usage":null' if include_usage else b""
        self._delta = self._head + self._usage + b',"choices":[{"index":0,"logprobs":null,"delta":'

    def first(self) -> bytes:
        """Says who speaks."""
        return self._delta + b'{"role":"assistant","content":""},"finish_reason":null}]}\n\n'

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._delta + b'{"content":' + _encode(text) + b'},"finish_reason":null}]}\n\n'

    def finish(self, extra: dict[str, object]) -> bytes:
        """The answer's end, and what it rests on."""
        return self._delta + b'{},"finish_reason":"stop"}],"agentteams":' + _encode(extra) + b"}\n\n"

    def scores(self, scores: dict[str, object]) -> bytes:
        """What was found out about the answer since: a chunk without choices, as that of token counts."""
        head = self._head + self._usage + b',"choices":[],"agentteams":'
        return head + _encode({"scores": scores}) + b"}\n\n"

    def last(self, ended: RunEnded) -> bytes:
        """The chunk of token counts, if it is wanted, and the stream's end."""
        body = b""
        if self._usage:
            body += self._head + b',"choices":[],"usage":' + _encode(usage(ended)) + b"}\n\n"
        return body + DONE


def error_event(error: ApiError) -> bytes:
    """The end of a stream without an answer."""
    return b"data: " + _encode(error.body()) + b"\n\n"


def completion(*, run: Run, team: str, text: str, extra: dict[str, object], ended: RunEnded) -> bytes:
    """The body of an answer that is not streamed."""
    return _encode(
        {
            "id": completion_id(run),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": team,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": usage(ended),
            "agentteams": extra,
        }
    )


def completion_id(run: Run) -> str:
    """The run as an id of the OpenAI API."""
    return "chatcmpl-" + run.name.removeprefix("runs/")


def usage(ended: RunEnded) -> dict[str, int]:
    """Token counts under OpenAI's names."""
    used = ended.usage
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
    }


def extra_field(
    *, run: Run, citations: Sequence[Citation], ended: RunEnded, answer_offset: int
) -> dict[str, object]:
    """The field `agentteams`: what OpenAI's format has no place for."""
    used = ended.usage
    return {
        "run": run.name,
        "session": run.session,
        "status": ended.state,
        "answer_offset": answer_offset,
        "citations": citations_field(citations),
        "usage": usage_field(used),
        "stages": stages_field(ended.stages),
    }


def citations_field(citations: Sequence[Citation]) -> list[dict[str, object]]:
    """What an answer rests on."""
    return [
        {
            "number": c.number,
            "document": c.document,
            "document_title": c.document_title,
            "chunk": c.chunk,
            "text": c.text,
            "origin": c.origin,
        }
        for c in citations
    ]


def usage_field(used: Usage) -> dict[str, int]:
    """What a run used."""
    return {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "model_calls": used.model_calls,
        "tool_calls": used.tool_calls,
        "searches": used.searches,
        "searches_saved": used.searches_saved,
    }


def stages_field(stages: Sequence[Stage]) -> list[dict[str, object]]:
    """Where its time went."""
    return [
        {
            "stage": stage.name,
            "duration_ms": round(stage.duration.total_seconds() * 1000, 3),
            "count": stage.count,
        }
        for stage in stages
    ]


def scores_field(found: Scores | NoScores, *, answer: str | None = None) -> dict[str, object]:
    """The field `scores`; with the texts of the unsupported sentences where the answer is known."""
    if isinstance(found, NoScores):
        return {"missing": found.missing, "reason": found.reason}
    return {
        "outcome": found.outcome,
        "reason": found.reason,
        "evaluator": found.evaluator,
        "version": found.version,
        **found.values,
        "below_thresholds": list(found.below),
        "unsupported": [
            {
                "start": one.start,
                "end": one.end,
                "text": None if answer is None else answer[one.start : one.end],
                "verdict": "unsupported",
                "faithfulness": one.faithfulness,
                "grounding": one.grounding,
                "evidence": list(one.evidence),
            }
            for one in found.unsupported
        ],
    }


def model_object(team: Team) -> dict[str, object]:
    """A team as a model. `created` is 0: a manifest has no birthday."""
    return {
        "id": team.name,
        "object": "model",
        "created": 0,
        "owned_by": "agentteams",
        "agentteams": {
            "description": team.description,
            "mode": team.mode,
            "members": list(team.members),
            "revision": team.revision,
            "ready": team.ready,
            "reason": team.reason,
        },
    }
