"""Dashboards of teams and of what a turn's time goes into."""

from charts.dashboards.panels import Board, Kind, Panel, Query, Row, mean, quantile, quantiles, rate, ratio

_TEAM = 'team=~"$team"'
_RUNS = rate("agentteams_runs_total", where=_TEAM)
# Begins with a team's first run, as the sums of its stages do: a mean of runs that both have.
_MEASURED = rate("agentteams_run_duration_seconds_count", where=_TEAM)
_FAILED = rate("agentteams_runs_total", where=f'{_TEAM}, state="FAILED"')
_SEARCHES = rate("agentteams_ledger_searches_total", where=_TEAM)
_REUSED = rate("agentteams_ledger_searches_total", where=f'{_TEAM}, source!="SEARCH"')
_STAGE_SECONDS = "agentteams_team_stage_seconds_total"

OVERVIEW = Board(
    uid="agentteams-overview",
    title="AgentTeams / Overview",
    description="How the teams are: runs, failures, time, money, evidence. Start here.",
    by_team=True,
    rows=(
        Row(
            title="Now",
            panels=(
                Panel(
                    title="Runs that ended",
                    description="Of the chosen teams, per second.",
                    unit="reqps",
                    kind=Kind.STAT,
                    width=4,
                    queries=(Query(expr=_RUNS),),
                ),
                Panel(
                    title="Failed",
                    description="Share of runs that ended FAILED. The objective of the alerts is 1 %.",
                    unit="percentunit",
                    kind=Kind.STAT,
                    width=4,
                    red_above=0.01,
                    queries=(Query(expr=ratio(_FAILED, _RUNS)),),
                ),
                Panel(
                    title="p95 of a run",
                    description="From its acceptance to its end, models included.",
                    unit="s",
                    kind=Kind.STAT,
                    width=4,
                    queries=(Query(expr=quantile(0.95, "agentteams_run_duration_seconds", where=_TEAM)),),
                ),
                Panel(
                    title="Active runs",
                    description="Of all teams, over all orchestrators.",
                    unit="short",
                    kind=Kind.STAT,
                    width=4,
                    queries=(Query(expr="sum(agentteams_active_runs)"),),
                ),
                Panel(
                    title="Searches saved",
                    description="Share of agents' searches that the evidence ledger answered.",
                    unit="percentunit",
                    kind=Kind.STAT,
                    width=4,
                    queries=(Query(expr=ratio(f"({_REUSED} or vector(0))", _SEARCHES)),),
                ),
                Panel(
                    title="Cost per hour",
                    description="At the prices of the ModelConfigs; models without prices count as nothing.",
                    unit="short",
                    kind=Kind.STAT,
                    width=4,
                    queries=(
                        Query(
                            expr=f"3600e-6 * {rate('agentteams_team_cost_micros_total', by='currency', where=_TEAM)}",
                            legend="{{currency}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="By team",
            panels=(
                Panel(
                    title="Runs",
                    description="Runs that ended, by team.",
                    unit="reqps",
                    queries=(
                        Query(expr=rate("agentteams_runs_total", by="team", where=_TEAM), legend="{{team}}"),
                    ),
                ),
                Panel(
                    title="Failures by reason",
                    description="Why runs failed; the reasons are those of the API.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_run_failures_total", by="team, reason", where=_TEAM),
                            legend="{{team}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="p95 of a run",
                    description="By team. Open the turn's anatomy to see what it is made of.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_run_duration_seconds", by="team", where=_TEAM),
                            legend="{{team}}",
                        ),
                    ),
                ),
                Panel(
                    title="Evidence that fits",
                    description="Share of searches whose best chunk fits the query well (grade STRONG).",
                    unit="percentunit",
                    red_below=0.5,
                    queries=(
                        Query(
                            expr=ratio(
                                rate(
                                    "agentteams_evidence_grades_total",
                                    by="team",
                                    where=f'{_TEAM}, grade="STRONG"',
                                ),
                                rate("agentteams_evidence_grades_total", by="team", where=_TEAM),
                            ),
                            legend="{{team}}",
                        ),
                    ),
                ),
                Panel(
                    title="Tokens",
                    description="Read and written by models, for runs that ended.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_team_tokens_total", by="team, kind", where=_TEAM),
                            legend="{{team}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="Where the time went",
                    description="Seconds of the stages of runs that ended, per second, all chosen teams.",
                    unit="s",
                    kind=Kind.STACKED,
                    queries=(Query(expr=rate(_STAGE_SECONDS, by="stage", where=_TEAM), legend="{{stage}}"),),
                ),
            ),
        ),
        Row(
            title="What agents do, all teams",
            panels=(
                Panel(
                    title="Tools",
                    description="Calls of tools that manifests name.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_tool_calls_total", by="kind, outcome"),
                            legend="{{kind}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="Workflow steps",
                    description="Attempts that ended, by kind of step.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_workflow_steps_total", by="kind, outcome"),
                            legend="{{kind}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="People",
                    description="Runs that were parked until a person answers, and what people said.",
                    unit="reqps",
                    queries=(
                        Query(expr=rate("agentteams_runs_parked_total"), legend="parked"),
                        Query(expr=rate("agentteams_inputs_total", by="outcome"), legend="{{outcome}}"),
                    ),
                ),
                Panel(
                    title="Guardrails",
                    description="Texts in which a guardrail found something, and what was done.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_guardrails_triggered_total", by="guardrail, place, action"),
                            legend="{{guardrail}} {{place}} {{action}}",
                        ),
                    ),
                ),
                Panel(
                    title="Prompts that did not fit",
                    description="Pieces left out or cut; `too large` could not be made to fit at all.",
                    unit="reqps",
                    queries=(
                        Query(expr=rate("agentteams_context_trimmed_total", by="kind"), legend="{{kind}}"),
                        Query(expr=rate("agentteams_context_too_large_total"), legend="too large"),
                    ),
                ),
                Panel(
                    title="Conversations",
                    description="Summaries made or failed, and sessions deleted at the end of their retention.",
                    unit="reqps",
                    queries=(
                        Query(
                            expr=rate("agentteams_history_summaries_total", by="outcome"),
                            legend="summary {{outcome}}",
                        ),
                        Query(expr=rate("agentteams_session_swept_sessions_total"), legend="swept"),
                    ),
                ),
                Panel(
                    title="Runs refused by quota",
                    description="Questions to namespaces that had as many runs as their quota allows.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_session_quota_refusals_total", by="tenant"),
                            legend="{{tenant}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

TURN = Board(
    uid="agentteams-turn",
    title="AgentTeams / Anatomy of a turn",
    description="What a turn's time goes into, stage by stage. Points are traces: click one.",
    by_team=True,
    rows=(
        Row(
            title="A mean turn of the chosen teams",
            panels=(
                Panel(
                    title="Stages of a turn",
                    description="Mean seconds a turn spends in each stage. Members work side by side, so that "
                    "the sum can be more than the turn took.",
                    unit="s",
                    kind=Kind.STACKED,
                    width=12,
                    queries=(
                        Query(
                            expr=f"{rate(_STAGE_SECONDS, by='stage', where=_TEAM)} / on() group_left()"
                            f" ({_MEASURED} > 0)",
                            legend="{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    title="Without the model",
                    description="The same, without the model's own time: what the platform adds.",
                    unit="s",
                    kind=Kind.STACKED,
                    width=12,
                    queries=(
                        Query(
                            expr=rate(_STAGE_SECONDS, by="stage", where=f'{_TEAM}, stage!="llm_inference"')
                            + f" / on() group_left() ({_MEASURED} > 0)",
                            legend="{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    title="Time of no stage",
                    description="Share of a turn that no stage accounts for. Under 5 % is sound; more means that "
                    "a process was starved, or a stage is missing.",
                    unit="percentunit",
                    width=8,
                    red_above=0.05,
                    queries=(
                        Query(
                            expr=ratio(
                                rate(_STAGE_SECONDS, where=f'{_TEAM}, stage="unaccounted"'),
                                rate("agentteams_run_duration_seconds_sum", where=_TEAM),
                            ),
                            legend="unaccounted",
                        ),
                    ),
                ),
                Panel(
                    title="A run",
                    description="From its acceptance to its end.",
                    unit="s",
                    width=8,
                    queries=quantiles("agentteams_run_duration_seconds", where=_TEAM, exemplars=True),
                ),
                Panel(
                    title="First text over HTTP",
                    description="From a streamed request to the first piece of its answer; all teams.",
                    unit="s",
                    width=8,
                    queries=quantiles("agentteams_http_first_text_seconds", exemplars=True),
                ),
            ),
        ),
        Row(
            title="Each stage, all teams",
            panels=tuple(
                Panel(
                    title=stage,
                    description=description,
                    unit="s",
                    width=8,
                    queries=quantiles(
                        "agentteams_stage_duration_seconds", where=f'stage="{stage}"', exemplars=True
                    ),
                )
                for stage, description in (
                    ("session_load", "The session, its history and the run's lease, in one call."),
                    ("embedding", "The query becomes a vector."),
                    ("vector_search", "Milvus finds the nearest chunks, and the words'."),
                    ("rerank", "Candidates are ordered again, where a reranker is configured."),
                    ("context_assembly", "A prompt is put together and made to fit."),
                    ("llm_inference", "The model answers, or asks for a tool."),
                    ("tool", "Any other tool works."),
                    ("session_save", "The answer and the run's end are stored."),
                    ("accept", "The team is found, its limits are checked."),
                )
            ),
        ),
        Row(
            title="Calls between services",
            panels=(
                Panel(
                    title="p95 of calls",
                    description="As the service that answered saw them, the ten slowest.",
                    unit="s",
                    width=12,
                    queries=(
                        Query(
                            expr=f"topk(10, {quantile(0.95, 'agentteams_rpc_duration_seconds', by='method')})",
                            legend="{{method}}",
                            exemplars=True,
                        ),
                    ),
                ),
                Panel(
                    title="Calls that failed",
                    description="By method and status. NOT_FOUND and the like are the caller's.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    width=12,
                    queries=(
                        Query(
                            expr=rate(
                                "agentteams_rpc_duration_seconds_count", by="method, code", where='code!="OK"'
                            ),
                            legend="{{method}} {{code}}",
                        ),
                    ),
                ),
                Panel(
                    title="Mean of a call",
                    description="By method.",
                    unit="s",
                    width=12,
                    queries=(
                        Query(
                            expr=f"topk(10, {mean('agentteams_rpc_duration_seconds', by='method')})",
                            legend="{{method}}",
                        ),
                    ),
                ),
                Panel(
                    title="Calls",
                    description="By method.",
                    unit="reqps",
                    width=12,
                    queries=(
                        Query(
                            expr=f"topk(10, {rate('agentteams_rpc_duration_seconds_count', by='method')})",
                            legend="{{method}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Traces",
            panels=(
                Panel(
                    title="Turns by verdict",
                    description="Why a turn's trace was kept or not.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    width=12,
                    queries=(
                        Query(expr=rate("agentteams_traces_total", by="verdict"), legend="{{verdict}}"),
                    ),
                ),
                Panel(
                    title="Spans lost",
                    description="Spans that could not be kept or sent, by reason. Anything but nothing means holes in traces.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    width=12,
                    red_above=0.1,
                    queries=(
                        Query(
                            expr=rate("agentteams_trace_spans_lost_total", by="reason"), legend="{{reason}}"
                        ),
                    ),
                ),
            ),
        ),
    ),
)
