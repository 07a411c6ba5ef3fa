"""The dashboard of answers: whether what was found supports them."""

from charts.dashboards.panels import Board, Kind, Panel, Query, Row, mean, quantile, quantiles, rate, ratio

_TEAM = 'team=~"$team"'
_SCORE = "agentteams_evaluation_score"
_SENTENCES = "agentteams_evaluation_sentences_total"


def _score(name: str, title: str, description: str) -> Panel:
    where = f'{_TEAM}, score="{name}", selection="SAMPLED"'
    return Panel(
        title=title,
        description=f"{description} Mean of the runs that were sampled, by team.",
        unit="percentunit",
        queries=(Query(expr=mean(_SCORE, by="team", where=where), legend="{{team}}"),),
    )


FAITHFULNESS = Board(
    uid="agentteams-faithfulness",
    title="AgentTeams / Faithfulness",
    description="Whether answers say what the evidence says. Scored after the fact, for runs that were sampled.",
    by_team=True,
    rows=(
        Row(
            title="Scores",
            panels=(
                _score("faithfulness", "Faithfulness", "Share of claims that the judge finds supported."),
                _score(
                    "grounding",
                    "Grounding",
                    "Closeness of claims to the evidence, without a judge; does not notice contradictions.",
                ),
                _score("retrieval_relevance", "Relevance of what was found", "Of chunks to their query."),
                _score("answer_relevance", "Relevance of the answer", "Whether it is about the question."),
                Panel(
                    title="Unsupported sentences",
                    description="Share of the sentences that claim something.",
                    unit="percentunit",
                    red_above=0.15,
                    queries=(
                        Query(
                            expr=ratio(
                                rate(_SENTENCES, by="team", where=f'{_TEAM}, finding="UNSUPPORTED"'),
                                rate(
                                    _SENTENCES, by="team", where=f'{_TEAM}, finding=~"SUPPORTED|UNSUPPORTED"'
                                ),
                            ),
                            legend="{{team}}",
                        ),
                    ),
                ),
                Panel(
                    title="Worst tenth",
                    description="Faithfulness that nine in ten sampled runs exceed, all chosen teams.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr=quantile(
                                0.1, _SCORE, where=f'{_TEAM}, score="faithfulness", selection="SAMPLED"'
                            ),
                            legend="p10",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Scoring",
            panels=(
                Panel(
                    title="Runs scored",
                    description="By outcome; EXPIRED waited too long for a judge.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_evaluation_runs_total", by="outcome", where=_TEAM),
                            legend="{{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="Below their threshold",
                    description="Runs with a score below the team's threshold for it.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate(
                                "agentteams_evaluation_below_threshold_total", by="team, score", where=_TEAM
                            ),
                            legend="{{team}} {{score}}",
                        ),
                    ),
                ),
                Panel(
                    title="Judge and grounding agree",
                    description="Share of claims about which both say the same. A fall is a judge that changed.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr=mean("agentteams_evaluation_agreement", by="team", where=_TEAM),
                            legend="{{team}}",
                        ),
                    ),
                ),
                Panel(
                    title="Runs that wait",
                    description="To be scored, up to 10,000; the evaluation service scales on it.",
                    unit="short",
                    queries=(Query(expr="max(agentteams_evaluation_waiting_runs)", legend="waiting"),),
                ),
                Panel(
                    title="A run's scoring",
                    description="From its beginning to its stored scores.",
                    unit="s",
                    queries=quantiles("agentteams_evaluation_duration_seconds"),
                ),
                Panel(
                    title="Calls of judges",
                    description="Made, or spared by an earlier answer.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_evaluation_judge_calls_total", by="model_config, outcome"),
                            legend="{{model_config}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="Tokens of judges",
                    description="Read and written.",
                    unit="short",
                    width=12,
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_evaluation_judge_tokens_total", by="model_config, kind"),
                            legend="{{model_config}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="Cost of judges per hour",
                    description="At the prices of their ModelConfigs.",
                    unit="short",
                    width=12,
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="3600e-6 * "
                            + rate(
                                "agentteams_evaluation_judge_cost_micros_total", by="model_config, currency"
                            ),
                            legend="{{model_config}} {{currency}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Golden sets by schedule",
            panels=(
                Panel(
                    title="Means",
                    description="Newest of each team, 0 to 1: sources found, facts said, faithfulness.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr=f"max by (team, score) (agentteams_evaluation_golden_score{{{_TEAM}}})",
                            legend="{{team}} {{score}}",
                        ),
                    ),
                ),
                Panel(
                    title="Teams",
                    description="By what the thresholds of spec.evaluation say of their golden sets.",
                    unit="short",
                    queries=(
                        Query(
                            expr="max by (state) (agentteams_evaluation_golden_teams)",
                            legend="{{state}}",
                        ),
                    ),
                ),
                Panel(
                    title="Evaluations",
                    description="Golden sets that were asked, or could not be.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_evaluation_golden_sets_total", by="outcome"),
                            legend="{{outcome}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
