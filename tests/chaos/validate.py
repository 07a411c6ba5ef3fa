"""The history checker: what clients saw against what is stored. Pure; it asks nobody.

Every promise of docs/durability.md that can be seen from outside is a check
here, and each has a name, by which the tests plant its violation.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from tests.chaos.history import (
    Delta,
    Event,
    History,
    StoredMessage,
    StoredRun,
    Stream,
    body_of,
    copied,
    failure_of,
    kind_of,
    runs_of,
    sequence_of,
)
from tests.chaos.model_calls import finished_calls_are_not_repeated, logged_answers_were_given
from tests.chaos.violation import Violation

_ENDED = frozenset({"RUN_STATE_SUCCEEDED", "RUN_STATE_FAILED", "RUN_STATE_CANCELLED"})

_NO_CAUSE = frozenset({"", "RUN_ABANDONED", "INTERNAL", "LEASE_LOST", "SEQUENCE_GAP", "RUN_FINISHED"})


def validate(history: History) -> list[Violation]:
    """All violations, by kind and place. An empty list is what everybody wants."""
    found = [violation for check in CHECKS for violation in check(history)]
    return sorted(found, key=lambda v: (v.kind, v.where, v.what))


# --- the log of a run ---------------------------------------------------------


def gapless_sequences(history: History) -> Iterator[Violation]:
    """sequence_gap: a log counts 1, 2, 3 … up to the run's last_sequence."""
    for run in history.runs.values():
        got = [sequence_of(event) for event in run.events]
        if got != list(range(1, len(got) + 1)):
            yield Violation(kind="sequence_gap", where=run.name, what=f"the log has the sequences {got}")
        if run.last_sequence != len(got):
            what = f"last_sequence is {run.last_sequence}, the log has {len(got)} events"
            yield Violation(kind="sequence_gap", where=run.name, what=what)


def all_ended(history: History) -> Iterator[Violation]:
    """not_ended: after the bound, nothing runs or waits any more."""
    for run in history.runs.values():
        if run.state not in _ENDED:
            yield Violation(kind="not_ended", where=run.name, what=f"it is {run.state} after the bound")


def one_end(history: History) -> Iterator[Violation]:
    """wrong_end: run_finished is there once, is last, and says what the run's row says."""
    for run in history.runs.values():
        kinds = [kind_of(event) for event in run.events]
        ends = kinds.count("run_finished")
        if run.state not in _ENDED:
            if ends:
                yield Violation(kind="wrong_end", where=run.name, what=f"{run.state} with a run_finished")
            continue
        if ends != 1 or kinds[-1] != "run_finished":
            what = f"{ends} run_finished, the last event is {kinds[-1] if kinds else 'none'}"
            yield Violation(kind="wrong_end", where=run.name, what=what)
        elif (said := body_of(run.events[-1]).get("state")) != run.state:
            what = f"the row says {run.state}, run_finished says {said}"
            yield Violation(kind="wrong_end", where=run.name, what=what)
        if kinds and kinds[0] != "run_started":
            yield Violation(kind="wrong_end", where=run.name, what=f"the first event is {kinds[0]}")


def failures_have_a_cause(history: History) -> Iterator[Violation]:
    """wrong_failure: a run fails for reasons of its own, not because the process that had it is gone."""
    for run in history.runs.values():
        reason = failure_of(run)
        if run.state == "RUN_STATE_FAILED" and reason in _NO_CAUSE:
            yield Violation(
                kind="wrong_failure", where=run.name, what=f"it failed with {reason or 'no reason'}"
            )


def recorded_repetitions(history: History) -> Iterator[Violation]:
    """tool_call_repeated: a call that begins twice was announced by run_resumed, and ends once."""
    for run in history.runs.values():
        begun: Counter[str] = Counter()
        ended: set[str] = set()
        announced: set[tuple[str, int]] = set()
        for event in run.events:
            kind, body = kind_of(event), body_of(event)
            call = str(body.get("call_id", ""))
            if kind == "run_resumed":
                announced |= {(str(c), int(body.get("attempt", 0))) for c in body.get("repeated_calls", [])}
            elif kind == "tool_call_started":
                begun[call] += 1
                again = (call, int(body.get("attempt", 0))) in announced
                if call in ended or (begun[call] > 1 and not again):
                    why = "after its end" if call in ended else "and no run_resumed names it"
                    what = f"call {call} begins again at {sequence_of(event)} {why}"
                    yield Violation(kind="tool_call_repeated", where=run.name, what=what)
            elif kind == "tool_call_finished":
                if call in ended or not begun[call]:
                    why = "a second time" if call in ended else "without a beginning"
                    what = f"call {call} ends at {sequence_of(event)} {why}"
                    yield Violation(kind="tool_call_repeated", where=run.name, what=what)
                ended.add(call)


def people_are_heard(history: History) -> Iterator[Violation]:
    """input_differs: what a person was told is stored is what the run was told, once for each question."""
    told: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for run in history.runs.values():
        asked = [str(body_of(e).get("call_id")) for e in run.events if kind_of(e) == "input_requested"]
        for event in run.events:
            if kind_of(event) == "input_provided":
                said = body_of(event).get("input", {})
                told[run.name, str(said.get("call_id"))].append(str(said.get("answer", "")))
        for call in {call for call in asked if asked.count(call) > 1}:
            what = f"question {call} was asked {asked.count(call)} times"
            yield Violation(kind="input_differs", where=run.name, what=what)
    for (name, call), texts in told.items():
        if len(texts) > 1:
            what = f"question {call} was answered {len(texts)} times"
            yield Violation(kind="input_differs", where=name, what=what)
    for said in history.said:
        texts = told[said.run, said.call]
        run_ = history.runs.get(said.run)
        # A run that was cancelled, or failed, need not have come to what was said.
        if texts != [said.text] and (texts or run_ is None or run_.state == "RUN_STATE_SUCCEEDED"):
            what = f"{said.client} said {said.text!r} to {said.call}, the log has {texts}"
            yield Violation(kind="input_differs", where=said.run, what=what)


_NAMED_STEPS = ("model_call_finished", "evidence_retrieved")


def finished_steps_once(history: History) -> Iterator[Violation]:
    """step_repeated: a model call, search or delegation that the log holds is not done again."""
    for run in history.runs.values():
        steps: Counter[tuple[str, str]] = Counter()
        for event in run.events:
            kind, body = kind_of(event), body_of(event)
            if kind in _NAMED_STEPS and body.get("step"):
                steps[kind, str(body["step"])] += 1
            elif kind == "member_finished":
                steps[kind, str(body.get("call_id", ""))] += 1
        for (kind, step), count in steps.items():
            if count > 1:
                what = f"step {step!r} has {count} {kind}"
                yield Violation(kind="step_repeated", where=run.name, what=what)


# --- what clients saw -----------------------------------------------------------


def streams_tell_the_log(history: History) -> Iterator[Violation]:
    """stream_differs: every event that a client saw is the stored one."""
    for stream in history.streams:
        run = history.runs.get(stream.run)
        stored = {} if run is None else {sequence_of(event): event for event in run.events}
        for item in stream.items:
            if isinstance(item, Delta):
                continue
            known = stored.get(sequence_of(item))
            if known is None:
                what = f"{stream.client} saw event {sequence_of(item)} ({kind_of(item)}), which is not stored"
            elif known != item:
                what = f"{stream.client} saw event {sequence_of(item)} otherwise than it is stored: " + (
                    _difference(item, known)
                )
            else:
                continue
            yield Violation(kind="stream_differs", where=stream.run, what=what)


def streams_in_order(history: History) -> Iterator[Violation]:
    """stream_order: a stream begins right after what was asked for and leaves nothing out."""
    for stream in history.streams:
        expected = stream.after + 1
        for item in stream.items:
            if isinstance(item, Delta):
                continue
            got = sequence_of(item)
            if got != expected:
                what = f"{stream.client} got {got} where {expected} was next (after {stream.after})"
                yield Violation(kind="stream_order", where=stream.run, what=what)
                break
            expected += 1


def texts_add_up(history: History) -> Iterator[Violation]:
    """text_differs: pieces join without a gap, and the answer's are the stored answer."""
    for stream in history.streams:
        run = history.runs.get(stream.run)
        # Whoever is killed may have stored an answer whose last piece nobody got.
        resumed = run is not None and run.attempt > 1
        succeeded = run is not None and run.state == "RUN_STATE_SUCCEEDED"
        if succeeded or not resumed:  # a resumed text that was ended may be shorter than what was shown
            yield from _texts_of(stream, resumed=resumed, whole=succeeded and not resumed)


def _texts_of(stream: Stream, *, resumed: bool, whole: bool) -> Iterator[Violation]:
    texts: dict[str, str] = {}
    for item in stream.items:
        if isinstance(item, Delta):
            have = texts.get(item.message, "")
            if item.offset not in (0, len(have)):
                what = (
                    f"{stream.client} has {len(have)} characters of {item.message}, gets offset {item.offset}"
                )
                yield Violation(kind="text_differs", where=stream.run, what=what)
            # Keyed by text alone; a member's never stands for the answer.
            texts[item.message] = item.text if item.offset == 0 else have[: item.offset] + item.text
        elif kind_of(item) == "message_completed" and not item.get("member"):
            # The last pieces may be lost with a process, but another attempt says the same again.
            answers = {d.message for d in stream.items if isinstance(d, Delta) and not d.member}
            got = [texts[message] for message in answers if texts.get(message)]
            content = str(body_of(item).get("message", {}).get("content", ""))
            if got and not any(_is_text_of(text, content, whole=whole, stripped=resumed) for text in got):
                what = f"{stream.client}'s pieces make {got[-1][-60:]!r}, stored is {content[-60:]!r}"
                yield Violation(kind="text_differs", where=stream.run, what=what)


def _is_text_of(text: str, content: str, *, whole: bool, stripped: bool) -> bool:
    # What a run had when it was ended gets a sentence that says so.
    begun = text.strip() if stripped else text
    return text.strip() == content.strip() or (not whole and content.startswith(begun))


def acknowledged_runs_exist(history: History) -> Iterator[Violation]:
    """run_lost: what was acknowledged is stored, in the session that was named."""
    for ack in history.acks:
        run = history.runs.get(ack.run)
        if run is None:
            yield Violation(kind="run_lost", where=ack.run, what=f"acknowledged for {ack.request_id}")
        elif run.session != ack.session:
            what = f"acknowledged in {ack.session}, stored in {run.session}"
            yield Violation(kind="run_lost", where=ack.run, what=what)


def one_run_a_request(history: History) -> Iterator[Violation]:
    """run_doubled: a request id is one run, however often it was sent."""
    runs: defaultdict[str, set[str]] = defaultdict(set)
    for ack in history.acks:
        runs[ack.request_id].add(ack.run)
    for request, names in runs.items():
        if len(names) > 1:
            yield Violation(kind="run_doubled", where=request, what=f"it is {', '.join(sorted(names))}")


def answers_are_stored(history: History) -> Iterator[Violation]:
    """answer_differs: what an OpenAI client read to the end is the stored answer."""
    for answer in history.answers:
        run = history.runs.get(answer.run)
        if run is None or answer.status != "succeeded":
            continue
        stored = [m.content for m in history.sessions.get(run.session, []) if _is_answer(m, run)]
        # The stream may show a leader's words before the answer; it ends with the answer.
        if len(stored) != 1 or not answer.text.strip().endswith(stored[0].strip()):
            what = f"read {answer.text[-60:]!r}, stored {[text[-60:] for text in stored]}"
            yield Violation(kind="answer_differs", where=answer.run, what=what)


# --- sessions ---------------------------------------------------------------------


def messages_once(history: History) -> Iterator[Violation]:
    """message_lost, message_doubled: each question of an acknowledged run is stored exactly once."""
    stored: defaultdict[str, list[StoredMessage]] = defaultdict(list)
    prefix = copied(history)
    for session, messages in history.sessions.items():
        for message in messages:
            if message.role == "user" and message.sequence > prefix.get(session, 0):
                stored[message.content].append(message)
    runs = {ack.request_id: ack.run for ack in history.acks}
    asked = {ask.question for ask in history.asks}
    for ask in history.asks:
        found, run = stored[ask.question], runs.get(ask.request_id)
        if len(found) > 1:
            what = f"the question of {ask.request_id} is stored {len(found)} times"
            yield Violation(kind="message_doubled", where=run or ask.client, what=what)
        if run is not None and not any(message.run == run for message in found):
            what = f"the question of {ask.request_id} is not stored with its run"
            yield Violation(kind="message_lost", where=run, what=what)
    for content, messages in stored.items():
        if messages and content not in asked:
            what = f"nobody asked {content[:60]!r}"
            yield Violation(kind="message_doubled", where=messages[0].run, what=what)


def messages_as_the_runs_say(history: History) -> Iterator[Violation]:
    """message_order: a session counts without gaps; each run has its question, then its answer."""
    prefix = copied(history)
    for session, messages in history.sessions.items():
        got = [message.sequence for message in messages]
        if got != list(range(1, len(got) + 1)):
            yield Violation(kind="message_order", where=session, what=f"the sequences are {got}")
        for run in runs_of(history, session):
            yield from _messages_of(run, [message for message in messages if message.run == run.name])
        known = {run.name for run in runs_of(history, session)}
        for message in messages:
            if message.run not in known and message.sequence > prefix.get(session, 0):
                what = f"message {message.sequence} is of {message.run}, which is no run of it"
                yield Violation(kind="message_order", where=session, what=what)


def _messages_of(run: StoredRun, messages: Sequence[StoredMessage]) -> Iterator[Violation]:
    roles = [message.role for message in messages]
    wanted = ["user", "assistant"] if run.state == "RUN_STATE_SUCCEEDED" else ["user"]
    if roles != wanted and (roles != ["user", "assistant"] or run.state == "RUN_STATE_PENDING"):
        what = f"a run that is {run.state} has the messages {roles}"
        yield Violation(kind="message_order", where=run.name, what=what)
    logged = [
        str(body_of(event)["message"].get("content", ""))
        for event in run.events
        if kind_of(event) == "message_completed" and not event.get("member")
    ]
    stored = [message.content for message in messages if message.role == "assistant"]
    if logged != stored:
        what = f"the log completes {len(logged)} answers, the session has {len(stored)}"
        if len(logged) == len(stored):
            what = f"the log says {logged[-1][-60:]!r}, the session {stored[-1][-60:]!r}"
        yield Violation(kind="message_order", where=run.name, what=what)


def forks_are_the_beginning(history: History) -> Iterator[Violation]:
    """fork_differs: a fork begins with the messages of its source, and a request id is one fork."""
    made: defaultdict[str, set[str]] = defaultdict(set)
    for fork in history.forks:
        made[fork.request_id].add(fork.session)
        pairs = itertools.zip_longest(
            history.sessions.get(fork.source, [])[: fork.sequence],
            history.sessions.get(fork.session, [])[: fork.sequence],
        )
        for n, (source, copy) in enumerate(pairs, 1):
            if source != copy:
                what = f"message {n} is not that of {fork.source}: {copy} instead of {source}"
                yield Violation(kind="fork_differs", where=fork.session, what=what)
                break
        if len(history.sessions.get(fork.session, [])) < fork.sequence:
            what = f"it has fewer than the {fork.sequence} messages that were copied"
            yield Violation(kind="fork_differs", where=fork.session, what=what)
    for request, sessions in made.items():
        if len(sessions) > 1:
            what = f"it is {', '.join(sorted(sessions))}"
            yield Violation(kind="fork_differs", where=request, what=what)


def one_run_at_a_time(history: History) -> Iterator[Violation]:
    """overlap: no run of a session works while another one does."""
    for session in history.sessions:
        spans = []
        for run in runs_of(history, session):
            # run_started is stored when the run begins to wait, not to work.
            times = [_time(event) for event in run.events if kind_of(event) != "run_started"]
            worked = any(kind_of(event) not in ("run_started", "run_finished") for event in run.events)
            if worked:
                spans.append((times[0], times[-1], run.name))
        spans.sort()
        for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
            if begin < end:
                what = f"{second} worked from {begin.time()}, {first} until {end.time()}"
                yield Violation(kind="overlap", where=session, what=what)


def _is_answer(message: StoredMessage, run: StoredRun) -> bool:
    return message.role == "assistant" and message.run == run.name


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(str(event["create_time"]).replace("Z", "+00:00"))


def _difference(one: Event, other: Event) -> str:
    kind = kind_of(one)
    if kind != kind_of(other):
        return f"{kind} instead of {kind_of(other)}"
    mine, theirs = {**one, **body_of(one)}, {**other, **body_of(other)}
    keys = sorted(
        key for key in mine.keys() | theirs.keys() if key != kind and mine.get(key) != theirs.get(key)
    )
    return f"{kind} differs in {', '.join(keys)}"


Check = Callable[[History], Iterator[Violation]]
CHECKS: Sequence[Check] = (
    gapless_sequences,
    all_ended,
    one_end,
    failures_have_a_cause,
    recorded_repetitions,
    people_are_heard,
    finished_steps_once,
    streams_tell_the_log,
    streams_in_order,
    texts_add_up,
    acknowledged_runs_exist,
    one_run_a_request,
    answers_are_stored,
    messages_once,
    messages_as_the_runs_say,
    forks_are_the_beginning,
    finished_calls_are_not_repeated,
    logged_answers_were_given,
    one_run_at_a_time,
)
