"""agentteams evaluate: how well a knowledge base is searched, and how well a team answers."""

from dataclasses import dataclass, field
from pathlib import Path

import click
from agentteams.retrieval.v1 import evaluation_pb2 as pb

from agentteams_cli.client import connect
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import CliError
from agentteams_cli.golden import read_golden_set
from agentteams_cli.quality import SCORES, mode_name, score_text
from agentteams_cli.render import to_dict
from agentteams_cli.team_golden import evaluate_team, show_history

MODES = {mode.lower(): mode for mode in ("Dense", "Sparse", "Hybrid")}
SHOWN_PATHS = 10


@dataclass(slots=True)
class Evaluated:
    """What an evaluation found; `before` is the last one of the same golden set, by mode."""

    evaluations: list[pb.Evaluation] = field(default_factory=list)
    before: dict[int, pb.Evaluation] = field(default_factory=dict)
    missing_paths: list[str] = field(default_factory=list)


def _modes(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    wanted = [part.strip().lower() for part in value.split(",")] if value else []
    if unknown := [part for part in wanted if part not in MODES]:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(MODES.values())}")
    return [MODES[part] for part in dict.fromkeys(wanted)]


@click.command("evaluate")
@click.argument("knowledge_base", required=False)
@click.option("--team", default="", help="Ask this team the questions of --golden, and score its answers.")
@click.option(
    "--golden",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML or JSON file of queries with the documents that they should find; it becomes the knowledge "
    "base's golden set.  [default: the one that was set last]",
)
@click.option("--history", is_flag=True, help="With --team: show what came of golden sets, and ask nothing.")
@click.option(
    "--modes", callback=_modes, help="Dense,Sparse,Hybrid or some of them.  [default: the knowledge base's]"
)
@click.option("--min-ndcg", type=click.FloatRange(0, 1), help="Exit code 1 if nDCG@10 of a mode is below it.")
@click.option(
    "--min-recall", type=click.FloatRange(0, 1), help="Exit code 1 if recall@10 of a mode is below it."
)
@common
@click.pass_obj
def evaluate_command(
    settings: Settings,
    knowledge_base: str | None,
    *,
    team: str,
    golden: Path | None,
    history: bool,
    modes: list[str],
    min_ndcg: float | None,
    min_recall: float | None,
) -> None:
    """Search every query of KNOWLEDGE_BASE's golden set and show how well its documents are found.

    In brackets: the change against the last evaluation of the same golden set.

    With --team: ask a team questions whose sources and facts are known, and compare its revisions; with
    --history: those that it was asked, also by schedule.
    """
    if bool(team) == bool(knowledge_base):
        raise click.UsageError("name a KNOWLEDGE_BASE, or a team with --team TEAM --golden FILE")
    if history and (not team or golden is not None):
        raise click.UsageError("--history goes with --team TEAM, and with no --golden")
    if history:
        show_history(settings, team)
        return
    if team:
        if golden is None or modes or min_ndcg is not None or min_recall is not None:
            raise click.UsageError("--team goes with --golden FILE, and with no other option")
        evaluate_team(settings, team, golden)
        return
    assert knowledge_base is not None
    golden_set = None if golden is None else read_golden_set(golden)
    found = run_async(_evaluate(settings, knowledge_base, golden_set, modes))
    too_low = [
        f"{score} of {mode_name(one.mode)} is {getattr(one, name):.4f}, below {least}"
        for one in found.evaluations
        for score, name, least in (
            ("nDCG@10", "ndcg_at_10", min_ndcg),
            ("recall@10", "recall_at_10", min_recall),
        )
        if least is not None and getattr(one, name) < least
    ]
    _show(settings, found)
    if too_low:
        raise CliError("; ".join(too_low))


def _show(settings: Settings, found: Evaluated) -> None:
    output = settings.output
    output.json(
        {
            "evaluations": [to_dict(one) for one in found.evaluations],
            "before": [to_dict(one) for one in found.before.values()],
            "missing_paths": found.missing_paths,
        }
    )
    output.table(
        ["mode", *SCORES, "queries", ""],
        [
            [
                mode_name(one.mode) + (", reranked" if one.reranked else ""),
                *(score_text(one, found.before.get(one.mode), name) for name in SCORES.values()),
                str(one.queries),
                f"{one.degraded} degraded" if one.degraded else "",
            ]
            for one in found.evaluations
        ],
        right=[*SCORES, "queries"],
    )


async def _evaluate(
    settings: Settings, knowledge_base: str, golden_set: pb.GoldenSet | None, modes: list[str]
) -> Evaluated:
    output, found = settings.output, Evaluated()
    async with connect(settings.state) as client:
        calls = client.evaluations
        if golden_set is None:
            sha256 = (await calls.golden_set(knowledge_base)).sha256
        else:
            sha256 = (await calls.set_golden_set(knowledge_base, golden_set)).sha256
        async for one in calls.former(knowledge_base):
            if one.golden_set_sha256 == sha256:
                found.before.setdefault(one.mode, one)
        with output.progress() as bar:
            async for response in calls.run(knowledge_base, modes):
                if response.missing_paths and not found.missing_paths:
                    found.missing_paths = list(response.missing_paths)
                    _warn(settings, found.missing_paths)
                bar("searches", response.done, response.total)
                found.evaluations = list(response.evaluations)
    if not found.evaluations:
        raise CliError("the evaluation ended without scores", fix="see the log of the retrieval service")
    return found


def _warn(settings: Settings, missing: list[str]) -> None:
    more = f" and {len(missing) - SHOWN_PATHS} more" if len(missing) > SHOWN_PATHS else ""
    settings.output.note(
        f"not in the knowledge base, or not READY, hence found by no search: "
        f"{', '.join(missing[:SHOWN_PATHS])}{more}; scores count them as not found",
        style="yellow",
    )
