"""Answers on the wire as OpenAI writes them: objects, or server-sent events."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from tests.support.model_http import Refused
from tests.support.model_script import Fault, Reply, count_tokens, embed_words

NextId = Callable[[str], str]
Phase = Literal["open", "chunk", "close"]

_DONE = b"data: [DONE]\n\n"


def _tool_calls(next_id: NextId, reply: Reply) -> list[dict[str, Any]]:
    calls = []
    for call in reply.tool_calls:
        function = {"name": call.name, "arguments": call.arguments_json()}
        calls.append({"id": call.id or next_id("call"), "type": "function", "function": function})
    return calls


def _usage(reply: Reply, raw_bytes: int) -> dict[str, int]:
    produced = len(reply.deltas()) + sum(count_tokens(c.arguments_json()) for c in reply.tool_calls)
    prompt = raw_bytes // 4 if reply.input_tokens is None else reply.input_tokens
    answer = produced if reply.output_tokens is None else reply.output_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def completion(next_id: NextId, body: Mapping[str, Any], reply: Reply, raw_bytes: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.full_text() or None}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(next_id, reply)
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": _finish_reason(reply),
        "logprobs": None if reply.top_logprobs is None else _logprobs(reply.top_logprobs),
    }
    scored = {}
    if reply.prompt_logprobs is not None and body.get("prompt_logprobs") is not None:
        # Nobody can say how likely the first token is.
        scored["prompt_logprobs"] = [None, *map(_prompt_token, reply.prompt_logprobs)]
    return {
        **scored,
        "id": next_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [choice],
        "usage": _usage(reply, raw_bytes),
    }


def _prompt_token(token: tuple[str, float]) -> dict[str, Any]:
    return {"7": {"logprob": token[1], "rank": 1, "decoded_token": token[0]}}


def _logprobs(shares: Mapping[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    return {"content": [{**top[0], "top_logprobs": top}]}


def sse(
    next_id: NextId, body: Mapping[str, Any], reply: Reply, fault: Fault | None, raw_bytes: int
) -> Iterator[tuple[bytes, Phase]]:
    """The lines of a streamed answer, and whether each opens it, is a chunk of it or closes it."""
    head = {
        "id": next_id("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body["model"],
    }
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    opening = b"data: " + msgspec.json.encode(head)[:-1]
    closing = b',"usage":null}\n\n' if with_usage else b"}\n\n"

    def line(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return opening + b',"choices":' + msgspec.json.encode(choice) + closing

    if fault is not None and fault.kind == "empty_choices":
        yield opening + b',"choices":[]' + closing, "chunk"
    else:
        yield line({"role": "assistant", "content": None if reply.tool_calls else ""}), "open"
        before, after = line({"content": "@"}).split(b'"@"')
        for text in reply.deltas():
            yield before + msgspec.json.encode(text) + after, "chunk"
        for index, call in enumerate(_tool_calls(next_id, reply)):
            arguments = call["function"]["arguments"]
            named = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            yield line({"tool_calls": [named]}), "chunk"
            # Arguments arrive in pieces that are no JSON by themselves.
            for start in range(0, len(arguments), 24):
                piece = {"index": index, "function": {"arguments": arguments[start : start + 24]}}
                yield line({"tool_calls": [piece]}), "chunk"
        yield line({}, _finish_reason(reply)), "close"
    if with_usage:
        usage = msgspec.json.encode(_usage(reply, raw_bytes))
        yield opening + b',"choices":[],"usage":' + usage + b"}\n\n", "close"
    yield _DONE, "close"


def embeddings(body: Mapping[str, Any], *, dimension: int, max_tokens: int) -> dict[str, Any]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise Refused(400, "'$.input' is invalid.", param="input")
    if len(texts) > 2048:
        raise Refused(400, f"'$.input' is invalid: {len(texts)} items, at most 2048.", param="input")
    tokens = [count_tokens(text) for text in texts]
    if max(tokens) > max_tokens:
        limit = f"This model's maximum context length is {max_tokens} tokens"
        raise Refused(400, f"{limit}, however you requested {max(tokens)} tokens.", param="input")
    dimension = body.get("dimensions") or dimension
    as_text = body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(texts):
        vector = embed_words(text, dimension)
        coded = base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": coded})
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}
