"""What runs count for their teams; other metrics stand beside the code that counts."""

from typing import TYPE_CHECKING, get_args

from prometheus_client import Counter, Histogram

from manifests import AgentTeam
from orchestrator.core.model import Grade, State
from orchestrator.core.totals import Summary, Usage
from servicekit.counters import from_zero
from servicekit.labels import BoundedLabels
from servicekit.spans import observe

if TYPE_CHECKING:
    from orchestrator.core.turn import Turn

RUNS = Counter("agentteams_runs_total", "Runs that ended", ["team", "state"])
# Apart, since there are too many reasons for each team to have all of them at 0.
FAILURES = Counter("agentteams_run_failures_total", "Runs that ended FAILED", ["team", "reason"])
RUN_SECONDS = Histogram(
    "agentteams_run_duration_seconds",
    "Wall time of a run",
    ["team"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
# A histogram for each stage of each team would be 15 times as many series.
STAGES = Counter(
    "agentteams_team_stage_seconds_total", "Wall time of the stages of runs that ended", ["team", "stage"]
)
TOKENS = Counter("agentteams_team_tokens_total", "Tokens of runs that ended", ["team", "kind"])
COST = Counter(
    "agentteams_team_cost_micros_total",
    "What runs that ended cost, in millionths of the currency",
    ["team", "currency"],
)
SEARCHES = Counter(
    "agentteams_ledger_searches_total", "Searches of agents, by who answered", ["team", "source", "outcome"]
)
GRADES = Counter(
    "agentteams_evidence_grades_total", "How well what was found fits its query", ["team", "grade"]
)
MODEL_SECONDS = Histogram(
    "agentteams_model_call_duration_seconds",
    "Wall time of a request to a model that was answered",
    ["model_config"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
FIRST_TOKEN_SECONDS = Histogram(
    "agentteams_model_first_token_seconds",
    "From a request to a model to the first piece of its answer",
    ["model_config"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

UNGRADED = "NONE"
_MAX_TEAMS = 100


def _at_zero(team: str) -> None:
    from_zero(RUNS, team=[team], state=get_args(State))
    from_zero(GRADES, team=[team], grade=[grade or UNGRADED for grade in get_args(Grade)])
    from_zero(TOKENS, team=[team], kind=("input", "output"))


TEAMS = BoundedLabels(_MAX_TEAMS, new=_at_zero)  # of the process, as the metrics are


def team_asked(team: AgentTeam) -> None:
    """Somebody asks the team: from here on it has its series, if it was not known before."""
    TEAMS.of(team.metadata.full_name)


def team_label(turn: "Turn") -> str:
    """What metrics call the team that was asked: `namespace/name`; of very many the last are "other"."""
    while turn.outer is not None:
        turn = turn.outer.turn
    return TEAMS.of(turn.team.metadata.full_name)


def note_end(turn: "Turn", summary: Summary, *, state: State, reason: str) -> None:
    """A run ended."""
    team = team_label(turn)
    _count_end(team, state, reason)
    observe(RUN_SECONDS.labels(team), summary.seconds)
    for stage in summary.stages:
        STAGES.labels(team, stage.stage).inc(stage.seconds)
    _note_usage(team, summary.usage)


def note_recorded_end(tenant: str, team: str, *, state: State, reason: str, seconds: float) -> None:
    """A run ended as its log stands: nobody works on it any more."""
    label = TEAMS.of(f"{tenant}/{team}")
    _count_end(label, state, reason)
    RUN_SECONDS.labels(label).observe(seconds)


def note_saved(turn: "Turn", seconds: float) -> None:
    """The end of a run was stored: the one stage that its own summary cannot hold."""
    STAGES.labels(team_label(turn), "session_save").inc(seconds)


def _count_end(team: str, state: State, reason: str) -> None:
    RUNS.labels(team, state).inc()
    if state == "FAILED":
        FAILURES.labels(team, reason).inc()


def _note_usage(team: str, usage: Usage) -> None:
    TOKENS.labels(team, "input").inc(usage.input_tokens)
    TOKENS.labels(team, "output").inc(usage.output_tokens)
    if usage.cost_micros:
        COST.labels(team, usage.currency).inc(usage.cost_micros)
