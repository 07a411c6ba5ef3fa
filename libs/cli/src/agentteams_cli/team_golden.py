"""agentteams evaluate --team: a team's answers to questions whose answers are known."""

import uuid
from pathlib import Path

from agentteams.evaluation.v1 import evaluation_service_pb2 as pb
from agentteams.session.v1 import scores_pb2

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, run_async
from agentteams_cli.errors import CliError
from agentteams_cli.render import to_dict
from manifests.golden import GoldenSetInvalid
from manifests.golden_questions import FORM, GoldenQuestion, parse_questions

_SHARES = {
    "sources": "sources_found",
    "facts": "facts_present",
    "faithfulness": "faithfulness",
    "grounding": "grounding",
}


def read_questions(file: Path) -> list[GoldenQuestion]:
    """The questions of a file.

    Raises:
        CliError: It cannot be read, or is of another form.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise CliError(f"{file} cannot be read: {' '.join(str(exc).split())}") from exc
    try:
        return parse_questions(text)
    except GoldenSetInvalid as exc:
        raise CliError(
            f"{file}{' ' if str(exc).startswith('cannot be read') else ': '}{exc}", fix=FORM
        ) from exc


def evaluate_team(settings: Settings, team: str, golden: Path) -> None:
    """Asks, scores, and compares with the last evaluation of another revision, else with the last."""
    questions = [
        pb.GoldenQuestion(id=one.id, question=one.question, sources=one.sources, facts=one.facts)
        for one in read_questions(golden)
    ]
    evaluation, before = run_async(_evaluate(settings, team, questions))
    output = settings.output
    output.json({"evaluation": to_dict(evaluation), "before": None if before is None else to_dict(before)})
    output.table(
        ["question", *_SHARES, ""],
        [
            [one.id, *(_share(one, name) for name in _SHARES.values()), _note(one)]
            for one in evaluation.questions
        ],
        right=list(_SHARES),
    )
    output.line()
    rows = [(f"revision {evaluation.team_revision}", evaluation)]
    if before is not None:
        rows.append((f"before: revision {before.team_revision}", before))
    output.table(
        ["", *_SHARES, "failed"],
        [[title, *(_share(one, name) for name in _SHARES.values()), str(one.failed)] for title, one in rows],
        right=[*_SHARES, "failed"],
    )


async def _evaluate(
    settings: Settings, team: str, questions: list[pb.GoldenQuestion]
) -> tuple[scores_pb2.TeamEvaluation, scores_pb2.TeamEvaluation | None]:
    found: scores_pb2.TeamEvaluation | None = None
    async with connect(settings.state) as client:
        former = await client.scores.former(team)
        with settings.output.progress() as bar:
            async for response in client.scores.evaluate(team, questions, request_id=str(uuid.uuid4())):
                bar("questions", response.done, response.total)
                if response.HasField("evaluation"):
                    found = response.evaluation
    if found is None:
        raise CliError("the evaluation ended without a result", fix="see the log of the evaluation service")
    same = [one for one in former if one.golden_set_sha256 == found.golden_set_sha256]
    others = [one for one in same if one.team_revision != found.team_revision]
    return found, next(iter(others or same), None)


def _share(one: scores_pb2.TeamEvaluation | scores_pb2.QuestionScore, name: str) -> str:
    return f"{getattr(one, name):.2f}" if one.HasField(name) else "-"  # type: ignore[arg-type]


def _note(one: scores_pb2.QuestionScore) -> str:
    if one.error:
        return one.error[:80]
    missing = [f"source {name}" for name in one.missing_sources] + [
        f"fact {text}" for text in one.missing_facts
    ]
    return f"missing: {', '.join(missing)[:100]}" if missing else ""
