"""What followers of a run are shown: everything, unless they call from another tenant."""

from collections.abc import Sequence

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2, run_scores_pb2

from orchestrator.adapters.events_pb import item_to_pb, run_to_pb, scores_to_pb
from orchestrator.core.awaited import Scored
from orchestrator.core.log import Item
from orchestrator.core.ports import RunRow
from servicekit.context import current_caller

# What the team itself says, and how it ends.
_SAID = ("run_started", "message_completed", "run_finished")
# Not what was found and how relevant that was, what the judge cost, or what the owner wants.
_SCORED = ("run", "evaluator", "version", "outcome", "faithfulness", "grounding", "answer_relevance")
_ASKED = ("input_requested", "input_provided")


def shown(items: Sequence[Item]) -> list[pb.RunItem]:
    """Items of a run as the current caller is shown them.

    For callers of other tenants members, tools, searches and evidence are left out: they are the owner's. A
    hidden event keeps its place, empty, so that sequences stay gapless.
    """
    told = [item_to_pb(item) for item in items]
    if not current_caller().home:
        return told
    return [_outside(one) for one in told if not one.text_delta.member]


def shown_run(row: RunRow) -> run_pb2.Run:
    """A run as the current caller is shown it; others are not told where pods are."""
    run = run_to_pb(row)
    if current_caller().home:
        run.ClearField("owner_address")
    return run


def shown_scores(found: Scored) -> pb.RunItem:
    """What came of waiting for scores; callers of other tenants are shown those of the answer alone."""
    told = scores_to_pb(found)
    if not current_caller().home or not told.HasField("scores"):
        return pb.RunItem(scores=told)
    out = run_scores_pb2.RunScores()
    for field, value in told.scores.ListFields():
        if field.name in _SCORED:
            setattr(out, field.name, value)
    for one in told.scores.sentences:
        sentence = out.sentences.add()
        sentence.CopyFrom(one)
        sentence.ClearField("evidence")
    return pb.RunItem(scores=pb.ScoresResult(scores=out))


def _outside(item: pb.RunItem) -> pb.RunItem:
    event, kind = item.event, item.event.WhichOneof("event")
    if not item.HasField("event"):
        return item
    out = run_pb2.RunEvent()
    if kind in _ASKED or (kind in _SAID and not event.member):
        out.CopyFrom(event)  # the one that was given is the log's
        out.ClearField("member")
        if kind == "run_finished":
            out.run_finished.summary.ClearField("scoring")
        return pb.RunItem(event=out)
    out.sequence, out.ignorable = event.sequence, True
    out.create_time.CopyFrom(event.create_time)
    if kind == "model_call_finished" and not event.member:
        out.model_call_finished.SetInParent()  # a text ends here
    return pb.RunItem(event=out)
