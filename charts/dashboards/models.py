"""The dashboard of models: what they answer, how quickly, at what price."""

from charts.dashboards.panels import Board, Kind, Panel, Query, Row, quantile, rate, ratio

_CALLS = "agentteams_model_calls_total"

MODELS = Board(
    uid="agentteams-models",
    title="AgentTeams / Models and cost",
    description="Requests to models by ModelConfig: failures, waiting, time, tokens, money.",
    rows=(
        Row(
            title="Answers",
            panels=(
                Panel(
                    title="Requests",
                    description="By model and outcome; `refused` were not made, since a limit or the breaker said no.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate(_CALLS, by="model_config, outcome"),
                            legend="{{model_config}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="Failed",
                    description="Share of requests that were not answered.",
                    unit="percentunit",
                    red_above=0.05,
                    queries=(
                        Query(
                            expr=ratio(
                                rate(_CALLS, by="model_config", where='outcome!="ok"'),
                                rate(_CALLS, by="model_config"),
                            ),
                            legend="{{model_config}}",
                        ),
                    ),
                ),
                Panel(
                    title="Stood in for",
                    description="Calls that a model did not answer and that were put to its fallback.",
                    unit="reqps",
                    queries=(
                        Query(
                            expr=rate("agentteams_model_fallbacks_total", by="model_config"),
                            legend="{{model_config}}",
                        ),
                    ),
                ),
                Panel(
                    title="First token, p95",
                    description="From a request to the first piece of its answer.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_model_first_token_seconds", by="model_config"),
                            legend="{{model_config}}",
                        ),
                    ),
                ),
                Panel(
                    title="Whole answer, p95",
                    description="Wall time of requests that were answered.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_model_call_duration_seconds", by="model_config"),
                            legend="{{model_config}}",
                            exemplars=True,
                        ),
                    ),
                ),
                Panel(
                    title="Breaker",
                    description="0 closed, 1 tries one call, 2 open: calls are refused until the model answers again.",
                    unit="short",
                    red_above=1,
                    queries=(
                        Query(
                            expr="max by (model_config) (agentteams_model_breaker_state)",
                            legend="{{model_config}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Limits",
            panels=(
                Panel(
                    title="Waiting for limits, p95",
                    description="How long a call waited for the limits of its ModelConfig.",
                    unit="s",
                    width=12,
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_model_queue_seconds", by="model_config"),
                            legend="{{model_config}}",
                        ),
                    ),
                ),
                Panel(
                    title="Waiting calls",
                    description="Calls that wait for limits now.",
                    unit="short",
                    width=12,
                    queries=(
                        Query(
                            expr="sum by (model_config) (agentteams_model_queued_calls)",
                            legend="{{model_config}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Tokens and money",
            panels=(
                Panel(
                    title="Tokens",
                    description="Read (input) and written (output) per second.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_model_tokens_total", by="model_config, kind"),
                            legend="{{model_config}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="Cost per hour, by model",
                    description="At the prices of the ModelConfigs, in their currencies.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="3600e-6 * "
                            + rate("agentteams_model_cost_micros_total", by="model_config, currency"),
                            legend="{{model_config}} {{currency}}",
                        ),
                    ),
                ),
                Panel(
                    title="Cost per hour, by team",
                    description="Of runs that ended.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="3600e-6 * "
                            + rate("agentteams_team_cost_micros_total", by="team, currency"),
                            legend="{{team}} {{currency}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
