"""What the model's endpoint saw against what the logs hold: two records that know nothing of each other."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from tests.chaos.history import Event, History, ModelCall, StoredRun, body_of, kind_of
from tests.chaos.violation import Violation
from tests.support.model_server import Received

# Every question of the traffic ends with its request id; that of the turn is the last one.
_QUESTION = re.compile(r"\(([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\)")
_UNAWARE_S = 2.0
_HARMLESS = (None, "stall")  # a late answer is an answer


def model_calls(journal: Sequence[Received], path: str) -> list[ModelCall]:
    """The endpoint's requests that belong to a question, in their order."""
    found = []
    for request in journal:
        if request.path != path or not isinstance(request.body, dict):
            continue
        messages = json.dumps(request.body.get("messages", []))
        questions = _QUESTION.findall(messages)
        if not questions:
            continue
        reply = request.reply
        spoilt = (request.fault.kind if request.fault else None) not in _HARMLESS
        found.append(
            ModelCall(
                question=questions[-1],
                body=hashlib.sha256(json.dumps(request.body, sort_keys=True).encode()).hexdigest(),
                text="" if reply is None else reply.full_text(),
                tools=()
                if reply is None
                else tuple(_call(call.name, call.arguments) for call in reply.tool_calls),
                whole=request.state == "answered" and reply is not None and not spoilt,
                begun=request.begun,
                ended=request.ended,
            )
        )
    return found


def finished_calls_are_not_repeated(history: History) -> Iterator[Violation]:
    """model_call_repeated: a call whose answer is in the log is not sent to the endpoint again."""
    for run, calls in _by_run(history):
        logged = [(_at(e), _said(e)) for e in run.events if kind_of(e) == "model_call_finished"]
        same: defaultdict[str, list[ModelCall]] = defaultdict(list)
        for call in calls:
            same[call.body].append(call)
        for equal in same.values():
            for n, again in enumerate(equal):
                answers = {_answered(call) for call in equal[:n] if call.whole}
                # Two members may ask the same: there is one more to come then.
                times = [at for at, said in logged if said in answers and at >= equal[0].begun]
                if not times or max(times) > again.begun:
                    continue
                # One that was frozen learns with its next append that the run is no longer its own.
                if not any(at <= again.begun <= at + _UNAWARE_S for at in history.thawed):
                    what = f"the answer of {max(times):.3f} was asked for again at {again.begun:.3f}"
                    yield Violation(kind="model_call_repeated", where=run.name, what=what)


def logged_answers_were_given(history: History) -> Iterator[Violation]:
    """model_call_unknown: every answer in a log is one that the endpoint gave, once for each."""
    if not history.model_calls:
        return  # nobody kept the endpoint's record
    for run, calls in _by_run(history):
        given = Counter(_answered(call) for call in calls if call.whole)
        logged = Counter(_said(e) for e in run.events if kind_of(e) == "model_call_finished")
        for (text, tools), count in (logged - given).items():
            what = f"{count} answers {text[:40]!r} {', '.join(tools)} were never given"
            yield Violation(kind="model_call_unknown", where=run.name, what=what)


def _by_run(history: History) -> Iterator[tuple[StoredRun, list[ModelCall]]]:
    names = {ack.request_id: ack.run for ack in history.acks}
    calls: defaultdict[str, list[ModelCall]] = defaultdict(list)
    for call in sorted(history.model_calls, key=lambda call: call.begun):
        calls[names.get(call.question, "")].append(call)
    for run in history.runs.values():
        yield run, calls[run.name]


def _answered(call: ModelCall) -> tuple[str, tuple[str, ...]]:
    return call.text.strip(), call.tools


def _said(event: Event) -> tuple[str, tuple[str, ...]]:
    body = body_of(event)
    tools = tuple(
        _call(call.get("tool", ""), call.get("arguments", "")) for call in body.get("tool_calls", [])
    )
    return str(body.get("text", "")).strip(), tools


def _call(name: object, arguments: object) -> str:
    """Tool and arguments, however they are spaced."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return f"{name} {arguments}"
    return f"{name} {json.dumps(arguments, sort_keys=True)}"


def _at(event: Event) -> float:
    return datetime.fromisoformat(str(event["create_time"]).replace("Z", "+00:00")).timestamp()
