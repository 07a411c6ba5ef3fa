"""The gateway when the orchestrator refuses, fails, is silent or away."""

import asyncio
import json
from datetime import timedelta

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from servicekit.errors import (
    Conflict,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from servicekit.identity import IdentityKey
from tests.support.door import MODEL_DOWN, QUESTION, Door, door, error_of, extra_of, stream_chunks, text_of
from tests.support.fake_orchestrator import (
    answer,
    completed,
    delta,
    deltas,
    finished,
    items,
    model_call_finished,
    person_answered,
    person_asked,
    started,
)

__all__ = ["door"]

# -- the orchestrator says no -------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ResourceExhausted("50 runs", reason="TOO_MANY_RUNS", retry_after=timedelta(seconds=7)),
            (429, "too_many_runs", None, "7"),
        ),
        (FailedPrecondition("no model", reason="TEAM_NOT_READY"), (503, "team_not_ready", "model", "1")),
        (Conflict("runs/x is not finished", reason="SESSION_BUSY"), (409, "session_busy", None, "1")),
        (
            NotFound("no session", reason="SESSION_NOT_FOUND"),
            (404, "session_not_found", "metadata.session", None),
        ),
        (
            InvalidArgument("used before", reason="REQUEST_ID_REUSED"),
            (400, "request_id_reused", "Idempotency-Key", None),
        ),
        (
            InvalidArgument(
                "input[1].content: too long",
                reason="INVALID_FIELD",
                violations=[FieldViolation("input[1].content", "too long")],
            ),
            (400, "invalid_value", "messages[1].content", None),
        ),
        (Internal("internal error", reason="INTERNAL"), (500, "internal", None, None)),
    ],
)  # fmt: skip
async def test_refusals_of_the_orchestrator(
    door: Door, error: ServiceError, shown: tuple[int, str, str | None, str | None]
) -> None:
    await door.open()
    door.orchestrator.start_error = error
    for stream in (False, True):
        response = await door.post({"model": "support", "messages": QUESTION, "stream": stream})
        body = error_of(response)
        retry_after = response.headers.get("retry-after")
        assert (response.status_code, body["code"], body["param"], retry_after) == shown


async def test_orchestrator_down_is_503_soon(door: Door, unused_tcp_port: int) -> None:
    client = await door.open(f"127.0.0.1:{unused_tcp_port}")
    async with asyncio.timeout(8):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="support", messages=QUESTION)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        assert (await door.http.get("/v1/models")).status_code == 503
        assert (await door.http.get("/readyz")).status_code == 503
        assert (await door.http.get("/healthz")).status_code == 200


async def test_an_orchestrator_that_hangs_is_504_in_time(door: Door) -> None:
    await door.open(start_timeout_s=0.3)
    door.orchestrator.start_gate = asyncio.Event()
    response = await door.post({"model": "support", "messages": QUESTION, "stream": True})
    assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")


async def test_services_that_do_not_trust_one_another_say_so(door: Door) -> None:
    async with door.orchestrator.serve(key=IdentityKey(b"another key, also of 32 bytes or more")) as target:
        await door.open(target)
        response = await door.post({"model": "support", "messages": QUESTION})
    assert response.status_code == 500
    assert "identity keys differ" in error_of(response)["message"]


async def test_ready_while_the_orchestrator_serves_and_no_stop_was_asked(door: Door) -> None:
    await door.open()
    assert (await door.http.get("/readyz")).status_code == 200
    door.gateway.turns.draining = True
    assert (await door.http.get("/readyz")).status_code == 503


async def test_too_many_open_questions(door: Door) -> None:
    client = await door.open(max_turns=1)
    gate = asyncio.Event()
    door.orchestrator.streams[0] = items(started(), gate, *answer("done")[1:])
    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    response = await door.post({"model": "support", "messages": QUESTION})
    assert (response.status_code, error_of(response)["code"]) == (503, "too_many_requests")
    assert response.headers["retry-after"] == "1"
    gate.set()
    assert text_of([chunk async for chunk in stream]) == "done"
    assert (await door.post({"model": "support", "messages": QUESTION})).status_code == 200


# -- runs that fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [(MODEL_DOWN, 502), (Internal("The run was abandoned", reason="RUN_ABANDONED"), 500)],
)
async def test_failed_run(door: Door, error: ServiceError, status: int) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(started(), *deltas("Half an"), finished(2, error=error))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="support", messages=QUESTION)
    assert caught.value.status_code == status
    assert caught.value.code == error.reason.lower()
    assert error.message in caught.value.message
    assert "runs/r1" in caught.value.message
    # The orchestrator has retried what is safe; the client would start another run.
    assert caught.value.response.headers["x-should-retry"] == "false"

    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as streamed:  # noqa: PT012  what came before it counts too
        async for chunk in stream:
            seen.append(chunk)
    assert text_of(seen) == "Half an"
    assert error.message in streamed.value.message
    assert isinstance(streamed.value.body, dict)
    assert (streamed.value.body["run"], streamed.value.body["code"]) == ("runs/r2", error.reason.lower())


async def test_cancelled_run(door: Door) -> None:
    await door.open()
    door.orchestrator.streams[0] = items(started(), finished(2, cancelled=True))
    response = await door.post({"model": "support", "messages": QUESTION})
    assert (response.status_code, error_of(response)["code"]) == (409, "run_cancelled")


# -- streams that break, and time ----------------------------------------------------


async def test_a_broken_stream_is_found_again(door: Door) -> None:
    client = await door.open()
    cut = Unavailable("going away", reason="DEPENDENCY_UNAVAILABLE")
    door.orchestrator.streams.clear()
    door.orchestrator.streams.extend(
        [
            items(started(), *deltas("It is"), model_call_finished(2, member="analyst"), cut),
            items(cut),
            # Joined late: the text so far comes as one piece.
            items(delta("It is bl", 0), delta("ue.", 8), completed(3, "It is blue."), finished(4)),
        ]
    )
    chunks = await stream_chunks(client)
    assert [c.choices[0].delta.content for c in chunks[1:-1]] == ["It is", " bl", "ue."]
    assert extra_of(chunks[-1])["answer_offset"] == 0
    assert [f.after_sequence for f in door.orchestrator.follows] == [0, 2, 2]
    assert len(door.orchestrator.starts) == 1


async def test_a_restarted_orchestrator_is_found_again(door: Door) -> None:
    gate = asyncio.Event()
    door.orchestrator.streams.clear()
    door.orchestrator.streams.extend(
        [items(started(), *deltas("It "), gate), items(completed(2, "It is."), finished(3))]
    )
    async with door.orchestrator.serve() as target:
        client = await door.open(target)
        stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
        seen = [await anext(stream), await anext(stream)]
    async with door.orchestrator.serve(port=int(target.rpartition(":")[2])):
        seen += [chunk async for chunk in stream]
    assert text_of(seen) == "It is."


async def test_an_orchestrator_that_stays_away_is_a_clear_error(door: Door) -> None:
    door.orchestrator.streams[0] = items(started(), *deltas("It "), asyncio.Event())
    async with door.orchestrator.serve() as target:
        client = await door.open(target, reconnect_s=0.5)
        stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
        seen = [await anext(stream), await anext(stream)]
    assert text_of(seen) == "It "
    async with asyncio.timeout(10):
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
    assert "Idempotency-Key" in caught.value.message


async def test_an_answer_that_begins_anew(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(
        started(), *deltas("It is red"), *deltas("It is", " blue."), completed(2, "It is blue."), finished(3)
    )
    chunks = await stream_chunks(client)
    text = text_of(chunks)
    assert text == "It is red\n\n[The answer begins anew:]\n\nIt is blue."
    assert text[extra_of(chunks[-1])["answer_offset"] :] == "It is blue."
    completion = await client.chat.completions.create(model="support", messages=QUESTION)
    assert completion.choices[0].message.content == "It is blue."
    assert extra_of(completion)["answer_offset"] == 0


async def test_a_missing_piece_is_asked_for_again(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams.clear()
    whole = [completed(2, "abcdef"), finished(3)]
    door.orchestrator.streams.extend(
        [items(started(), delta("ab", 0), delta("ef", 4), *whole), items(started(), delta("abcd", 0), *whole)]
    )
    chunks = await stream_chunks(client)
    assert text_of(chunks) == "abcdef"


async def test_silence_is_filled_with_comments(door: Door) -> None:
    await door.open(keep_alive_s=0.05)
    gate = asyncio.Event()
    door.orchestrator.streams[0] = items(started(), gate, *answer("done")[1:])
    lines = []
    async with door.http.stream(
        "POST", "/v1/chat/completions", json={"model": "support", "messages": QUESTION, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            lines.append(line)
            if lines.count(": the team is at work") == 2:
                gate.set()
    assert lines[-2] == "data: [DONE]"
    assert any("done" in line for line in lines)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_not_followed_any_more(door: Door, stream: bool) -> None:
    await door.open()
    door.orchestrator.streams[0] = items(started(), asyncio.Event())
    body = {"model": "support", "messages": QUESTION, "stream": stream}

    async def ask() -> None:
        async with door.http.stream("POST", "/v1/chat/completions", json=body) as response:
            await response.aread()

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(10):
        await door.orchestrator.followed.wait()
        asking.cancel()
        await door.orchestrator.left.wait()
    assert len(door.orchestrator.starts) == 1  # and nobody cancelled the run


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_without_end_is_left_in_time(door: Door, stream: bool) -> None:
    await door.open(run_timeout_s=0.3)
    door.orchestrator.streams[0] = items(started(), *deltas("Well,"), asyncio.Event())
    response = await door.post({"model": "support", "messages": QUESTION, "stream": stream})
    if stream:
        assert response.status_code == 200
        last = response.text.strip().splitlines()[-1]
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert response.status_code == 504
        error = error_of(response)
    assert (error["code"], error["run"]) == ("deadline_exceeded", "runs/r1")
    assert door.orchestrator.starts[0].request_id in error["message"]


async def test_a_run_that_waits_for_a_person_says_for_what(door: Door) -> None:
    await door.open(run_timeout_s=0.3)
    steps = [started(), person_asked(2, "#1.1"), person_asked(3, "#1.2"), person_answered(4, "#1.2")]
    door.orchestrator.streams[0] = items(*steps, asyncio.Event())
    response = await door.post({"model": "support", "messages": QUESTION})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (504, "waiting_for_person")
    assert "waits for approval of refund (call #1.1); it goes on." in error["message"]
    assert door.orchestrator.starts[0].request_id in error["message"]


async def test_a_stop_ends_open_streams_with_words(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(started(), *deltas("Well,"), asyncio.Event())
    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    await anext(stream)
    door.gateway.turns.end_all()
    with pytest.raises(openai.APIError) as caught:
        [chunk async for chunk in stream]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "gateway_stopping"
