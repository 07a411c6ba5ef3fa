"""agentteams evaluate --team: a team's answers to questions whose answers are known."""

import uuid
from pathlib import Path

from agentteams.evaluation.v1 import evaluation_service_pb2 as pb
from agentteams.session.v1 import golden_sets_pb2 as golden_pb
from agentteams.session.v1 import scores_pb2

from agentteams_cli.client import Client, connect
from agentteams_cli.context import Settings, run_async
from agentteams_cli.errors import CliError
from agentteams_cli.render import to_dict, when
from manifests import AgentTeam
from manifests.golden import GoldenSetInvalid
from manifests.golden_pb import questions_to_pb
from manifests.golden_questions import FORM, GoldenQuestion, parse_questions
from servicekit.errors import ServiceError

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


async def set_team_golden_set(client: Client, manifest: AgentTeam, config_maps: Path) -> str:
    """Gives a team the golden set that its manifest refers to; why it was not set, if so.

    Args:
        config_maps: Folder with a file NAME/KEY for each key of a ConfigMap.
    """
    evaluation, team = manifest.spec.evaluation, manifest.metadata.name
    field = "spec.evaluation.goldenSetRef"
    try:
        if evaluation is None or evaluation.golden_set_ref is None:
            if await client.scores.golden_set(team) is not None:
                await client.scores.set_golden_set(questions_to_pb(team, "", []))
            return ""
        ref = evaluation.golden_set_ref.config_map_key_ref
        file = config_maps / ref.name / ref.key
        if not file.is_file():
            return f"{field}: there is no {file}; put the golden set there and apply again"
        request = questions_to_pb(team, evaluation.golden_set_name, read_questions(file))
        await client.scores.set_golden_set(request)
    except CliError as exc:
        return f"{field}: {exc}; {exc.fix}"
    except ServiceError as exc:
        return f"{field}: {exc.message}"
    return ""


def show_history(settings: Settings, team: str) -> None:
    """What came of golden sets, newest first; how the one by schedule gets on."""
    found, scheduled = run_async(_history(settings, team))
    output = settings.output
    output.json(
        {
            "scheduled": None if scheduled is None else to_dict(scheduled),
            "evaluations": [to_dict(one) for one in found],
        }
    )
    if scheduled is not None:
        output.line(f"{scheduled.golden_set}: {scheduled.questions} questions, {_getting_on(scheduled)}")
    rows = []
    for place, one in enumerate(found):
        # As `evaluate --team`: of another revision, else the one before.
        same = [o for o in found[place + 1 :] if o.golden_set_sha256 == one.golden_set_sha256]
        others = [o for o in same if o.team_revision != one.team_revision]
        before = next(iter(others or same), None)
        shares = [_change(one, before, name) for name in _SHARES.values()]
        how = "by schedule" if one.scheduled else ""
        rows.append([when(one.create_time), one.team_revision, *shares, str(one.failed), how])
    if not rows:
        output.line(f"{team} was asked no golden set yet: agentteams evaluate --team {team} --golden FILE")
        return
    output.table(["ASKED", "REVISION", *_SHARES, "FAILED", ""], rows, right=[*_SHARES, "FAILED"])


async def _history(
    settings: Settings, team: str
) -> tuple[list[scores_pb2.TeamEvaluation], golden_pb.TeamGoldenSet | None]:
    async with connect(settings.state) as client:
        return await client.scores.former(team), await client.scores.golden_set(team)


def _getting_on(scheduled: golden_pb.TeamGoldenSet) -> str:
    if scheduled.running:
        return f"{scheduled.done} of them are answered"
    if scheduled.failures:
        retry = when(scheduled.retry_time)
        return f"could not be asked ({scheduled.failures} times in a row): {scheduled.failure}; again {retry}"
    return "asked by schedule"


def _change(one: scores_pb2.TeamEvaluation, before: scores_pb2.TeamEvaluation | None, name: str) -> str:
    """Such as 0.75 (+0.25)."""
    if before is None or not (one.HasField(name) and before.HasField(name)):  # type: ignore[arg-type]
        return _share(one, name)
    return f"{_share(one, name)} ({getattr(one, name) - getattr(before, name):+.2f})"


def _share(one: scores_pb2.TeamEvaluation | scores_pb2.QuestionScore, name: str) -> str:
    return f"{getattr(one, name):.2f}" if one.HasField(name) else "-"  # type: ignore[arg-type]


def _note(one: scores_pb2.QuestionScore) -> str:
    if one.error:
        return one.error[:80]
    missing = [f"source {name}" for name in one.missing_sources] + [
        f"fact {text}" for text in one.missing_facts
    ]
    return f"missing: {', '.join(missing)[:100]}" if missing else ""
