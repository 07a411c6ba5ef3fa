"""Histories for the checker: a good one, and one for each way to break a promise."""

import dataclasses
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.chaos.history import (
    Ack,
    Answer,
    Ask,
    Delta,
    Fork,
    History,
    ModelCall,
    Said,
    StoredMessage,
    StoredRun,
    Stream,
)

SESSION = "sessions/s1"
FIRST = 1767225600.0  # the first run's events are a second apart from here


def event(
    sequence: int, kind: str, body: dict[str, Any], *, second: int = 0, **fields: Any
) -> dict[str, Any]:
    time = f"2026-01-01T00:00:{second + sequence:02d}Z"
    return {"sequence": str(sequence), "create_time": time, kind: body, **fields}


def log(answer: str, *, second: int) -> list[dict[str, Any]]:
    """A run that was taken over while it called a tool."""
    steps: list[tuple[str, dict[str, Any]]] = [
        ("run_started", {}),
        ("model_call_finished", {"step": "#1"}),
        ("tool_call_started", {"call_id": "#1.0"}),
        ("run_resumed", {"attempt": 2, "repeated_calls": ["#1.0"]}),
        ("tool_call_started", {"call_id": "#1.0", "attempt": 2}),
        ("evidence_retrieved", {"step": "?docs1"}),
        ("tool_call_finished", {"call_id": "#1.0"}),
        ("model_call_finished", {"step": "#2", "text": answer}),
        ("message_completed", {"message": {"content": answer}}),
        ("run_finished", {"state": "RUN_STATE_SUCCEEDED"}),
    ]
    return [event(n, kind, body, second=second) for n, (kind, body) in enumerate(steps, 1)]


def plain(answer: str, *, second: int) -> list[dict[str, Any]]:
    """A run that nothing happened to."""
    return [
        event(1, "run_started", {}, second=second),
        event(2, "model_call_finished", {"step": "#1", "text": answer}, second=second),
        event(3, "message_completed", {"message": {"content": answer}}, second=second),
        event(4, "run_finished", {"state": "RUN_STATE_SUCCEEDED"}, second=second),
    ]


def stored_run(name: str, events: list[dict[str, Any]]) -> StoredRun:
    return StoredRun(
        name=name,
        session=SESSION,
        state="RUN_STATE_SUCCEEDED",
        last_sequence=len(events),
        events=events,
    )


def good() -> History:
    """Two questions in a session, one after the other; the second waited in the queue."""
    first, second = log("Thirty days.", second=0), plain("Room 4711.", second=20)
    return History(
        asks=[
            Ask(request_id="a", client="c", question="How many? (a)"),
            Ask(request_id="b", client="c", question="Where? (b)", session=SESSION),
            Ask(request_id="x", client="c", question="Refused. (x)", session=SESSION),
        ],
        acks=[
            Ack(request_id="a", run="runs/1", session=SESSION),
            Ack(request_id="a", run="runs/1", session=SESSION),
            Ack(request_id="b", run="runs/2", session=SESSION),
        ],
        streams=[
            Stream(client="c", run="runs/1", after=0, items=[*deepcopy(first[:3])]),
            Stream(client="c", run="runs/1", after=3, items=[*deepcopy(first[3:])]),
            Stream(
                client="c",
                run="runs/2",
                after=0,
                items=[
                    deepcopy(second[0]),
                    Delta(message="t1", offset=0, text="Ro"),
                    Delta(message="t1", offset=0, text="Room"),  # begun anew
                    Delta(message="t1", offset=4, text=" 4711."),
                    *deepcopy(second[1:]),
                ],
            ),
        ],
        model_calls=[
            asked("a", "", at=0.9),
            asked("a", "Thirty days.", at=7.0),
            asked("b", "Room 4711.", at=21.0),
        ],
        answers=[Answer(request_id="b", run="runs/2", text="Room 4711.")],
        runs={"runs/1": stored_run("runs/1", first), "runs/2": stored_run("runs/2", second)},
        sessions={
            SESSION: [
                StoredMessage(sequence=1, role="user", content="How many? (a)", run="runs/1"),
                StoredMessage(sequence=2, role="user", content="Where? (b)", run="runs/2"),
                StoredMessage(sequence=3, role="assistant", content="Thirty days.", run="runs/1"),
                StoredMessage(sequence=4, role="assistant", content="Room 4711.", run="runs/2"),
            ]
        },
    )


def asked(question: str, text: str, *, at: float, whole: bool = True) -> ModelCall:
    """A request to the endpoint, so many seconds after the first run began."""
    begun = FIRST + at
    return ModelCall(
        question=question,
        body=f"{question} {text}" if whole else question,
        text=text,
        tools=(),
        whole=whole,
        begun=begun,
        ended=begun + 0.5,
    )


def change(history: History, run: str, **fields: Any) -> None:
    history.runs[run] = dataclasses.replace(history.runs[run], **fields)


def renumbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "sequence": str(n)} for n, one in enumerate(events, 1)]


def relog(history: History, events: list[dict[str, Any]], run: str = "runs/1") -> None:
    """Another log, well numbered, and nobody watched."""
    history.streams.clear()
    change(history, run, events=renumbered(events), last_sequence=len(events))


def an_event_is_missing(h: History) -> None:
    events = list(h.runs["runs/1"].events)
    h.streams.clear()
    change(h, "runs/1", events=events[:4] + events[5:], last_sequence=9)


def the_row_counts_otherwise(h: History) -> None:
    change(h, "runs/2", last_sequence=5)


def a_run_runs_for_ever(h: History) -> None:
    h.streams.clear()
    h.answers.clear()
    change(h, "runs/2", state="RUN_STATE_RUNNING", events=h.runs["runs/2"].events[:2], last_sequence=2)
    h.sessions[SESSION].pop()


def a_run_waits_for_ever(h: History) -> None:
    h.streams.clear()
    h.answers.clear()
    change(h, "runs/2", state="RUN_STATE_PENDING", events=h.runs["runs/2"].events[:1], last_sequence=1)
    h.sessions[SESSION].pop()


def two_ends(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, [*events, events[-1]])


def an_event_after_the_end(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, [*events, event(11, "model_call_finished", {"step": "#3"})])


def no_end(h: History) -> None:
    relog(h, log("Thirty days.", second=0)[:-1])


def the_row_ends_otherwise(h: History) -> None:
    change(h, "runs/1", state="RUN_STATE_CANCELLED")


def no_beginning(h: History) -> None:
    relog(h, plain("Thirty days.", second=0)[1:])


def a_run_fails_because_its_process_is_gone(h: History) -> None:
    details = [{"@type": "google.rpc.ErrorInfo", "reason": "RUN_ABANDONED"}]
    finished = {"state": "RUN_STATE_FAILED", "status": {"code": 14, "details": details}}
    relog(h, [*log("Thirty days.", second=0)[:-1], event(10, "run_finished", finished)])
    change(h, "runs/1", state="RUN_STATE_FAILED")


def a_tool_called_again_unseen(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, events[:3] + events[4:])


def a_tool_called_again_unannounced(h: History) -> None:
    events = log("Thirty days.", second=0)
    events[3] = event(4, "run_resumed", {"attempt": 2})
    relog(h, events)


def a_tool_called_again_after_its_end(h: History) -> None:
    events = log("Thirty days.", second=0)
    again = event(8, "run_resumed", {"attempt": 3, "repeated_calls": ["#1.0"]})
    relog(
        h, [*events[:7], again, event(9, "tool_call_started", {"call_id": "#1.0", "attempt": 3}), *events[7:]]
    )


def a_tool_answers_twice(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, [*events[:7], events[6], *events[7:]])


def a_model_asked_again(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, [*events[:2], events[1], *events[2:]])


def a_search_done_again(h: History) -> None:
    events = log("Thirty days.", second=0)
    relog(h, [*events[:6], events[5], *events[6:]])


def an_event_that_was_seen_is_lost(h: History) -> None:
    h.streams.append(Stream(client="c", run="runs/2", after=4, items=[event(5, "model_call_finished", {})]))


def an_event_was_seen_otherwise(h: History) -> None:
    item = h.streams[1].items[-2]
    assert isinstance(item, dict)
    item["message_completed"] = {"message": {"content": "Forty days."}}


def a_stream_of_a_lost_run(h: History) -> None:
    h.streams.append(Stream(client="c", run="runs/9", after=0, items=[event(1, "run_started", {})]))


def a_stream_leaves_one_out(h: History) -> None:
    del h.streams[1].items[1]


def a_stream_tells_one_twice(h: History) -> None:
    h.streams[0].items.insert(1, h.streams[0].items[0])


def a_stream_begins_too_early(h: History) -> None:
    h.streams[1].after = 4


def a_piece_is_missing(h: History) -> None:
    h.streams[2].items[3] = Delta(message="t1", offset=5, text=" 4711.")


def the_pieces_make_another_text(h: History) -> None:
    h.streams[2].items[3] = Delta(message="t1", offset=4, text=" 4712.")


def an_acknowledged_run_is_lost(h: History) -> None:
    h.acks.append(Ack(request_id="x", run="runs/3", session=SESSION))


def a_run_in_another_session(h: History) -> None:
    h.acks.append(Ack(request_id="b", run="runs/2", session="sessions/s2"))


def a_request_that_became_two_runs(h: History) -> None:
    h.acks.append(Ack(request_id="b", run="runs/1", session=SESSION))


def another_answer_over_http(h: History) -> None:
    h.answers[0] = dataclasses.replace(h.answers[0], text="Room 4712.")


def a_question_is_lost(h: History) -> None:
    del h.sessions[SESSION][1]


def a_question_is_doubled(h: History) -> None:
    h.sessions[SESSION].append(StoredMessage(sequence=5, role="user", content="Where? (b)", run="runs/2"))


def a_question_of_nobody(h: History) -> None:
    h.sessions[SESSION].append(StoredMessage(sequence=5, role="user", content="Who?", run="runs/2"))


def an_answer_is_lost(h: History) -> None:
    h.answers.clear()
    h.sessions[SESSION].pop()


def an_answer_is_doubled(h: History) -> None:
    last = h.sessions[SESSION][-1]
    h.sessions[SESSION].append(dataclasses.replace(last, sequence=5))


def an_answer_before_its_question(h: History) -> None:
    m = h.sessions[SESSION]
    m[1], m[3] = (dataclasses.replace(m[3], sequence=2), dataclasses.replace(m[1], sequence=4))


def a_gap_in_a_session(h: History) -> None:
    m = h.sessions[SESSION]
    m[3] = dataclasses.replace(m[3], sequence=5)


def a_message_of_a_run_elsewhere(h: History) -> None:
    h.sessions["sessions/s2"] = [StoredMessage(sequence=1, role="user", content="Refused. (x)", run="runs/1")]


def a_resumed_run_says_something_else(h: History) -> None:
    the_pieces_make_another_text(h)
    change(h, "runs/2", attempt=2)


def a_stored_answer_is_asked_for_again(h: History) -> None:
    h.model_calls.append(asked("b", "Room 4711.", at=22.5))


def an_answer_nobody_gave(h: History) -> None:
    h.model_calls.pop()


def forked(h: History, *roles: int, sequence: int = 2) -> None:
    """Of the messages with these places."""
    name = "sessions/f"
    made = Fork(request_id="f", client="c", source=SESSION, sequence=sequence, session=name)
    h.forks.append(made)
    h.sessions[name] = [
        dataclasses.replace(h.sessions[SESSION][place], sequence=n) for n, place in enumerate(roles, 1)
    ]


def a_fork_of_another_text(h: History) -> None:
    forked(h, 0, 2)


def a_fork_that_is_too_short(h: History) -> None:
    forked(h, 0)


def a_fork_that_is_two(h: History) -> None:
    forked(h, 0, 1)
    h.forks.append(dataclasses.replace(h.forks[0], session="sessions/g"))
    h.sessions["sessions/g"] = h.sessions["sessions/f"]


def a_fork_that_goes_on_by_itself(h: History) -> None:
    forked(h, 0, 1, 3)


def waited(h: History, *answers: str, asked: int = 1) -> None:
    """The first run asks, is told `answers`, and the service has acknowledged the first of them."""
    steps = log("Thirty days.", second=0)
    call = "#1.1"
    waits = [event(3, "input_requested", {"call_id": call})] * asked
    waits += [event(3, "input_provided", {"input": {"call_id": call, "answer": text}}) for text in answers]
    relog(h, [*steps[:2], *waits, *steps[2:]])
    h.said.append(Said(client="c", run="runs/1", call=call, text="office 7"))


def an_answer_of_a_person_is_lost(h: History) -> None:
    waited(h)


def a_run_is_told_something_else(h: History) -> None:
    waited(h, "office 8")


def a_run_is_told_twice(h: History) -> None:
    waited(h, "office 7", "office 7")


def a_person_is_asked_twice(h: History) -> None:
    waited(h, "office 7", asked=2)


def two_runs_at_once(h: History) -> None:
    events = plain("Room 4711.", second=3)
    h.streams.clear()
    change(h, "runs/2", events=events)


PLANTED: dict[Callable[[History], None], str] = {
    an_event_is_missing: "sequence_gap",
    the_row_counts_otherwise: "sequence_gap",
    a_run_runs_for_ever: "not_ended",
    a_run_waits_for_ever: "not_ended",
    two_ends: "wrong_end",
    an_event_after_the_end: "wrong_end",
    no_end: "wrong_end",
    the_row_ends_otherwise: "wrong_end",
    no_beginning: "wrong_end",
    a_run_fails_because_its_process_is_gone: "wrong_failure",
    a_tool_called_again_unseen: "tool_call_repeated",
    a_tool_called_again_unannounced: "tool_call_repeated",
    a_tool_called_again_after_its_end: "tool_call_repeated",
    a_tool_answers_twice: "tool_call_repeated",
    a_model_asked_again: "step_repeated",
    a_search_done_again: "step_repeated",
    an_event_that_was_seen_is_lost: "stream_differs",
    an_event_was_seen_otherwise: "stream_differs",
    a_stream_of_a_lost_run: "stream_differs",
    a_stream_leaves_one_out: "stream_order",
    a_stream_tells_one_twice: "stream_order",
    a_stream_begins_too_early: "stream_order",
    a_piece_is_missing: "text_differs",
    the_pieces_make_another_text: "text_differs",
    an_acknowledged_run_is_lost: "run_lost",
    a_run_in_another_session: "run_lost",
    a_request_that_became_two_runs: "run_doubled",
    another_answer_over_http: "answer_differs",
    a_question_is_lost: "message_lost",
    a_question_is_doubled: "message_doubled",
    a_question_of_nobody: "message_doubled",
    an_answer_is_lost: "message_order",
    an_answer_is_doubled: "message_order",
    an_answer_before_its_question: "message_order",
    a_gap_in_a_session: "message_order",
    a_message_of_a_run_elsewhere: "message_order",
    two_runs_at_once: "overlap",
    a_resumed_run_says_something_else: "text_differs",
    a_stored_answer_is_asked_for_again: "model_call_repeated",
    an_answer_nobody_gave: "model_call_unknown",
    an_answer_of_a_person_is_lost: "input_differs",
    a_run_is_told_something_else: "input_differs",
    a_run_is_told_twice: "input_differs",
    a_person_is_asked_twice: "input_differs",
    a_fork_of_another_text: "fork_differs",
    a_fork_that_is_too_short: "fork_differs",
    a_fork_that_is_two: "fork_differs",
    a_fork_that_goes_on_by_itself: "message_order",
}
