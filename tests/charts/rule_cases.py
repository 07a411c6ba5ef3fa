"""For each alert: series with which it fires at a time, and series with which it does not.

Values are promtool's: `0+60x120` begins at 0 and grows by 60 each minute, 120 times.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Series = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`value` is what the annotations show of the expression's value."""

    alert: str
    at: str
    fires: Series
    silent: Series
    value: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def _runs(failed: int, ok: int, minutes: int = 480) -> dict[str, str]:
    return {
        'agentteams_runs_total{team="a/docs", state="FAILED"}': f"0+{failed}x{minutes}",
        'agentteams_runs_total{team="a/docs", state="SUCCEEDED"}': f"0+{ok}x{minutes}",
    }


def _histogram(name: str, labels: str, *, under: str, over: str, grows: int) -> dict[str, str]:
    """A histogram of which all observations lie between two bounds."""
    return {
        f'{name}_bucket{{{labels}le="{under}"}}': "0x120",
        f'{name}_bucket{{{labels}le="{over}"}}': f"0+{grows}x120",
        f'{name}_bucket{{{labels}le="+Inf"}}': f"0+{grows}x120",
    }


def _sentences(unsupported: int, supported: int) -> dict[str, str]:
    name = "agentteams_evaluation_sentences_total"
    return {
        f'{name}{{team="a/docs", finding="UNSUPPORTED"}}': f"0+{unsupported}x180",
        f'{name}{{team="a/docs", finding="SUPPORTED"}}': f"0+{supported}x180",
        f'{name}{{team="a/docs", finding="NO_CLAIM"}}': "0+100x180",
    }


_TEAM = {"team": "a/docs"}
_MODEL = {"model_config": "a/chat"}

CASES = (
    Case(
        alert="AgentTeamsRunsFailFast",
        at="90m",
        fires=_runs(20, 80),
        silent=_runs(10, 90),
        labels=_TEAM,
        value="20%",
    ),
    Case(
        alert="AgentTeamsRunsFailSlowly",
        at="440m",
        fires=_runs(7, 93),
        silent=_runs(5, 95),
        labels=_TEAM,
        value="7%",
    ),
    Case(
        alert="AgentTeamsTimeOfNoStage",
        at="60m",
        fires={
            'agentteams_team_stage_seconds_total{team="a/docs", stage="unaccounted"}': "0+10x120",
            'agentteams_run_duration_seconds_sum{team="a/docs"}': "0+100x120",
        },
        silent={
            'agentteams_team_stage_seconds_total{team="a/docs", stage="unaccounted"}': "0+4x120",
            'agentteams_run_duration_seconds_sum{team="a/docs"}': "0+100x120",
        },
        labels=_TEAM,
        value="10%",
    ),
    Case(
        alert="AgentTeamsRunsTakenOver",
        at="30m",
        fires={'agentteams_lease_takeovers_total{cause="lost"}': "0+2x60"},
        silent={
            'agentteams_lease_takeovers_total{cause="lost"}': "0x10 5x50",
            'agentteams_lease_takeovers_total{cause="handed_over"}': "0+20x60",
        },
        value="30",
    ),
    Case(
        alert="AgentTeamsSearchesDegraded",
        at="90m",
        fires={
            'agentteams_retrieval_searches_total{outcome="DEGRADED"}': "0+20x120",
            'agentteams_retrieval_searches_total{outcome="FAILED"}': "0+20x120",
            'agentteams_retrieval_searches_total{outcome="OK"}': "0+60x120",
        },
        silent={
            'agentteams_retrieval_searches_total{outcome="DEGRADED"}': "0+10x120",
            'agentteams_retrieval_searches_total{outcome="EMPTY"}': "0+40x120",
            'agentteams_retrieval_searches_total{outcome="OK"}': "0+50x120",
        },
        value="40%",
    ),
    Case(
        alert="AgentTeamsEvidenceDoesNotFit",
        at="120m",
        fires={
            'agentteams_evidence_grades_total{team="a/docs", grade="STRONG"}': "0+10x240",
            'agentteams_evidence_grades_total{team="a/docs", grade="NONE"}': "0+90x240",
        },
        silent={
            'agentteams_evidence_grades_total{team="a/docs", grade="STRONG"}': "0+40x240",
            'agentteams_evidence_grades_total{team="a/docs", grade="NONE"}': "0+60x240",
        },
        labels=_TEAM,
        value="10%",
    ),
    Case(
        alert="AgentTeamsKnowledgeDegraded",
        at="20m",
        fires={'agentteams_retrieval_quality_knowledge_bases{state="DEGRADED"}': "0 0 0 1x60"},
        silent={
            'agentteams_retrieval_quality_knowledge_bases{state="DEGRADED"}': "1x15 0x60",
            'agentteams_retrieval_quality_knowledge_bases{state="GOOD"}': "3x60",
        },
        value="1",
    ),
    Case(
        alert="AgentTeamsIngestStands",
        at="20m",
        fires={"agentteams_retrieval_queue_oldest_seconds": "960x60"},
        silent={"agentteams_retrieval_queue_oldest_seconds": "0 960 960 960 0x60"},
        value="16m 0s",
    ),
    Case(
        alert="AgentTeamsDocumentsFail",
        at="60m",
        fires={
            'agentteams_retrieval_ingested_documents_total{state="FAILED"}': "0+1x120",
            'agentteams_retrieval_ingested_documents_total{state="READY"}': "0+1x120",
        },
        silent={
            'agentteams_retrieval_ingested_documents_total{state="FAILED"}': "0+1x120",
            'agentteams_retrieval_ingested_documents_total{state="READY"}': "0+9x120",
        },
        value="50%",
    ),
    Case(
        alert="AgentTeamsChunksAstray",
        at="90m",
        fires={'agentteams_retrieval_reconciled_total{what="stray_chunks_removed"}': "0+2x120"},
        silent={'agentteams_retrieval_reconciled_total{what="stray_chunks_removed"}': "0x60 40x60"},
        value="120",
    ),
    Case(
        alert="AgentTeamsAnswersUnsupportedFast",
        at="90m",
        fires=_sentences(70, 30),
        silent=_sentences(50, 50),
        labels=_TEAM,
        value="70%",
    ),
    Case(
        alert="AgentTeamsAnswersUnsupportedSlowly",
        at="120m",
        fires=_sentences(20, 80),
        silent=_sentences(10, 90),
        labels=_TEAM,
        value="20%",
    ),
    Case(
        alert="AgentTeamsGoldenSetDegraded",
        at="20m",
        fires={'agentteams_evaluation_golden_teams{state="DEGRADED"}': "0 0 0 2x60"},
        silent={
            'agentteams_evaluation_golden_teams{state="DEGRADED"}': "1x15 0x60",
            'agentteams_evaluation_golden_teams{state="UNKNOWN"}': "3x60",
        },
        value="2",
    ),
    Case(
        alert="AgentTeamsScoringStands",
        at="50m",
        fires={"agentteams_evaluation_waiting_runs": "2000x90"},
        silent={"agentteams_evaluation_waiting_runs": "2000x30 10x60"},
        value="2k",
    ),
    Case(
        alert="AgentTeamsModelFails",
        at="30m",
        fires={
            'agentteams_model_calls_total{model_config="a/chat", outcome="unavailable"}': "0+5x60",
            'agentteams_model_calls_total{model_config="a/chat", outcome="ok"}': "0+5x60",
        },
        silent={
            'agentteams_model_calls_total{model_config="a/chat", outcome="refused"}': "0+5x60",
            'agentteams_model_calls_total{model_config="a/chat", outcome="ok"}': "0+5x60",
        },
        labels=_MODEL,
        value="50%",
    ),
    Case(
        alert="AgentTeamsModelBreakerOpen",
        at="10m",
        fires={'agentteams_model_breaker_state{model_config="a/chat"}': "2x60"},
        silent={'agentteams_model_breaker_state{model_config="a/chat"}': "2 2 1 0 0 2 1 0x60"},
        labels=_MODEL,
    ),
    Case(
        alert="AgentTeamsModelQueue",
        at="40m",
        fires=_histogram(
            "agentteams_model_queue_seconds", 'model_config="a/chat", ', under="10", over="30", grows=60
        ),
        silent=_histogram(
            "agentteams_model_queue_seconds", 'model_config="a/chat", ', under="0.1", over="0.5", grows=60
        ),
        labels=_MODEL,
        value="29s",
    ),
    Case(
        alert="AgentTeamsCostRises",
        at="1560m",
        fires={
            'agentteams_team_cost_micros_total{team="a/docs", currency="USD"}': "0+10000x1440 14400000+100000x240"
        },
        silent={
            'agentteams_team_cost_micros_total{team="a/docs", currency="USD"}': "0+100x1440 144000+1000x240"
        },
        labels={**_TEAM, "currency": "USD"},
    ),
    Case(
        alert="AgentTeamsNotAnswering",
        at="10m",
        fires={'up{container="session", instance="10.0.0.7:51053"}': "1 1 0x60"},
        silent={
            'up{container="session", instance="10.0.0.7:51053"}': "1 0 1x60",
            'up{container="another"}': "0x60",
        },
        labels={"container": "session", "instance": "10.0.0.7:51053"},
    ),
    Case(
        alert="AgentTeamsCallsFail",
        at="20m",
        fires={
            'agentteams_rpc_duration_seconds_count{method="/a.S/M", code="INTERNAL"}': "0+10x60",
            'agentteams_rpc_duration_seconds_count{method="/a.S/M", code="OK"}': "0+90x60",
        },
        silent={
            'agentteams_rpc_duration_seconds_count{method="/a.S/M", code="NOT_FOUND"}': "0+10x60",
            'agentteams_rpc_duration_seconds_count{method="/a.S/M", code="OK"}': "0+90x60",
        },
        labels={"method": "/a.S/M"},
        value="10%",
    ),
    Case(
        alert="AgentTeamsDatabaseFull",
        at="20m",
        fires=_histogram("agentteams_session_pool_wait_seconds", "", under="0.5", over="1", grows=60),
        silent=_histogram("agentteams_session_pool_wait_seconds", "", under="0.001", over="0.01", grows=60),
        value="975ms",
    ),
    Case(
        alert="AgentTeamsEmbeddingQueue",
        at="20m",
        fires={'agentteams_embedding_queued_texts{provider="builtin"}': "3000x60"},
        silent={'agentteams_embedding_queued_texts{provider="builtin"}': "3000 3000 500x60"},
        value="3k",
    ),
    Case(
        alert="AgentTeamsOperatorWithoutLeader",
        at="10m",
        fires={
            'agentteams_operator_leader{pod="a"}': "1 0x60",
            'agentteams_operator_leader{pod="b"}': "0x60",
        },
        silent={
            'agentteams_operator_leader{pod="a"}': "1 0x60",
            'agentteams_operator_leader{pod="b"}': "0 0 1x60",
        },
    ),
    Case(
        alert="AgentTeamsObjectsFail",
        at="30m",
        fires={'agentteams_operator_retrying_objects{kind="AgentTeam"}': "2x60"},
        silent={'agentteams_operator_retrying_objects{kind="AgentTeam"}': "2x10 0x60"},
        labels={"kind": "AgentTeam"},
        value="2",
    ),
    Case(
        alert="AgentTeamsObjectsNotReady",
        at="60m",
        fires={
            'agentteams_operator_conditions{kind="AgentTeam", condition="Ready", status="False", pod="a"}': "3x90",
            'agentteams_operator_conditions{kind="AgentTeam", condition="Ready", status="False", pod="b"}': "3x90",
        },
        silent={
            'agentteams_operator_conditions{kind="AgentTeam", condition="Ready", status="False"}': "0x90",
            'agentteams_operator_conditions{kind="AgentTeam", condition="QualityDegraded", status="False"}': "3x90",
        },
        labels={"kind": "AgentTeam"},
        value="3",
    ),
    Case(
        alert="AgentTeamsWatchesBreak",
        at="40m",
        fires={'agentteams_operator_watches_begun_total{resource="agentteams"}': "0+4x60"},
        silent={'agentteams_operator_watches_begun_total{resource="agentteams"}': "0+1x60"},
        labels={"resource": "agentteams"},
        value="60",
    ),
)
