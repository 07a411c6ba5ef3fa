"""What the service measures; docs/telemetry.yaml lists it."""

import secrets
from collections.abc import Sequence
from typing import get_args

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from prometheus_client import Counter, Gauge, Histogram

from evaluation.core.model import SCORES, Job, Outcome, Scores, Verdict
from evaluation.core.schedule import GoldenPolicy, GoldenSet
from servicekit import span_wire, spans
from servicekit.counters import from_zero
from servicekit.labels import BoundedLabels

_MAX_TEAMS, _MAX_JUDGES = 100, 200
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)

SCORE = Histogram(
    "agentteams_evaluation_score",
    "Scores of runs, 0 to 1",
    ["team", "score", "selection"],
    buckets=_SHARES,
)
RUNS = Counter("agentteams_evaluation_runs_total", "Runs whose scoring ended", ["team", "outcome"])
BELOW = Counter(
    "agentteams_evaluation_below_threshold_total", "Runs with a score below the team's", ["team", "score"]
)
WAITING = Gauge("agentteams_evaluation_waiting_runs", "Runs that wait to be scored, up to 10,000")
AGREEMENT = Histogram(
    "agentteams_evaluation_agreement",
    "Share of a run's claims about which grounding and the judge agree",
    ["team"],
    buckets=_SHARES,
)
SENTENCES = Counter(
    "agentteams_evaluation_sentences_total", "Sentences of answers that were scored", ["team", "finding"]
)
CALLS = Counter("agentteams_evaluation_judge_calls_total", "Calls of judges", ["model_config", "outcome"])
TOKENS = Counter("agentteams_evaluation_judge_tokens_total", "Tokens of judges", ["model_config", "kind"])
COST = Counter(
    "agentteams_evaluation_judge_cost_micros_total",
    "What judges cost, in millionths of the currency",
    ["model_config", "currency"],
)
SECONDS = Histogram(
    "agentteams_evaluation_duration_seconds",
    "From the beginning of a run's scoring to its stored scores",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)

GOLDEN_SETS = Counter(
    "agentteams_evaluation_golden_sets_total", "Golden sets of teams that were asked by schedule", ["outcome"]
)
from_zero(GOLDEN_SETS, outcome=("done", "failed"))
GOLDEN_SCORE = Gauge(
    "agentteams_evaluation_golden_score", "Newest means of golden sets asked by schedule", ["team", "score"]
)
GOLDEN_TEAMS = Gauge(
    "agentteams_evaluation_golden_teams", "Teams with golden sets that are asked by schedule", ["state"]
)

_MAX_TEAMS = 100


def _team_at_zero(team: str) -> None:
    from_zero(RUNS, team=[team], outcome=get_args(Outcome))
    from_zero(BELOW, team=[team], score=SCORES)
    from_zero(SENTENCES, team=[team], finding=get_args(Verdict))


def _model_at_zero(model_config: str) -> None:
    from_zero(CALLS, model_config=[model_config], outcome=("asked", "known"))
    from_zero(TOKENS, model_config=[model_config], kind=("input", "output"))


# Of the process, as the metrics are.
TEAMS = BoundedLabels(_MAX_TEAMS, new=_team_at_zero)
JUDGES = BoundedLabels(_MAX_JUDGES, new=_model_at_zero)
_EVENT = "gen_ai.evaluation.result"


def golden_sets_seen(wanted: Sequence[tuple[GoldenSet, GoldenPolicy]]) -> None:
    """All that there is now; degraded ones first, as many as the label allows."""
    found = [(one, one.state(policy)) for one, policy in wanted]
    for state in ("GOOD", "DEGRADED", "UNKNOWN"):
        GOLDEN_TEAMS.labels(state).set(sum(known == state for _, known in found))
    found.sort(key=lambda row: (row[1] != "DEGRADED", row[0].tenant, row[0].team))
    GOLDEN_SCORE.clear()
    for one, _ in found[:_MAX_TEAMS]:
        for name, value in one.newest.means.items() if one.newest is not None else ():
            GOLDEN_SCORE.labels(f"{one.tenant}/{one.team}", name).set(value)


def golden_set_ended(done: bool) -> None:
    """An evaluation by schedule."""
    GOLDEN_SETS.labels("done" if done else "failed").inc()


class Telemetry:
    """`Report` as metrics, and as events of a span that is linked to the run's trace."""

    def scored(self, job: Job, scores: Scores, *, seconds: float) -> None:
        """See Report."""
        team = TEAMS.of(f"{job.tenant}/{job.team}")
        RUNS.labels(team, scores.outcome).inc()
        SECONDS.observe(seconds)
        for name, value in scores.named():
            if value is not None:
                SCORE.labels(team, name, job.selection).observe(value)
        for name in scores.below:
            BELOW.labels(team, name).inc()
        if scores.agreement is not None:
            AGREEMENT.labels(team).observe(scores.agreement)
        for sentence in scores.sentences:
            SENTENCES.labels(team, sentence.verdict).inc()
        self._usage(scores)
        if spans.is_on():
            _trace(job, scores, seconds=seconds)

    def _usage(self, scores: Scores) -> None:
        usage = scores.usage
        if not usage.model_config:
            return
        model = JUDGES.of(usage.model_config)
        CALLS.labels(model, "asked").inc(usage.calls)
        CALLS.labels(model, "known").inc(usage.cached)
        TOKENS.labels(model, "input").inc(usage.input_tokens)
        TOKENS.labels(model, "output").inc(usage.output_tokens)
        if usage.cost_micros:
            COST.labels(model, usage.currency).inc(usage.cost_micros)


def _trace(job: Job, scores: Scores, *, seconds: float) -> None:
    """Always kept: the run's own spans may be gone, and cannot be brought back."""
    recording = spans.Recording(secrets.randbits(128), keep=True)
    recording.common.update(
        {"agentteams.run": job.run, "agentteams.team": job.team, "agentteams.tenant": job.tenant}
    )
    own: dict[str, spans.Value] = {"agentteams.evaluation.outcome": scores.outcome}
    with spans.Span(recording, "evaluation", own, parent_id=0) as span:
        span.start_ns -= int(seconds * 1e9)
        run = span_wire.parse(job.traceparent)
        if run is not None:
            span.link(spans.Ref(run[0], run[1]))
        for name, value in scores.named():
            if value is not None:
                span.event(
                    _EVENT,
                    {
                        gen_ai.GEN_AI_EVALUATION_NAME: name,
                        gen_ai.GEN_AI_EVALUATION_SCORE_VALUE: value,
                        gen_ai.GEN_AI_EVALUATION_SCORE_LABEL: "fail" if name in scores.below else "pass",
                        "agentteams.evaluation.version": f"{scores.evaluator}/{scores.version}",
                    },
                )
