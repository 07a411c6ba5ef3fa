"""Dashboards for whoever is on call: each service's saturation, and the operator."""

from charts.dashboards.panels import (
    INTERVAL,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    mean,
    quantile,
    quantiles,
    rate,
    ratio,
)

_TEXTS = "agentteams_embedding_cache_texts_total"

SATURATION = Board(
    uid="agentteams-saturation",
    title="AgentTeams / Services",
    description="How full each service is, by the signal that it scales on.",
    rows=(
        Row(
            title="The signals that services scale on",
            panels=(
                Panel(
                    title="Orchestrator: active runs",
                    description="By pod.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(expr="sum by (instance) (agentteams_active_runs)", legend="{{instance}}"),
                    ),
                ),
                Panel(
                    title="Retrieval: searches in flight",
                    description="By pod.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="sum by (instance) (agentteams_retrieval_searches_in_flight)",
                            legend="{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    title="Embedding: queued texts",
                    description="Texts that wait or are being embedded, by pod.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="sum by (instance, provider) (agentteams_embedding_queued_texts)",
                            legend="{{instance}} {{provider}}",
                        ),
                    ),
                ),
                Panel(
                    title="Session: waiting for a connection",
                    description="Transactions' wait for Postgres.",
                    unit="s",
                    queries=quantiles("agentteams_session_pool_wait_seconds"),
                ),
                Panel(
                    title="Gateway: open questions",
                    description="Questions that are being answered, by pod.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(expr="sum by (instance) (agentteams_http_open_turns)", legend="{{instance}}"),
                    ),
                ),
                Panel(
                    title="Runs taken over",
                    description="By cause: `handed_over` is a roll-out, `lost` is a process that died.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(expr=rate("agentteams_lease_takeovers_total", by="cause"), legend="{{cause}}"),
                    ),
                ),
            ),
        ),
        Row(
            title="Processes",
            panels=(
                Panel(
                    title="Processor",
                    description="Cores used, by container.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(expr=rate("process_cpu_seconds_total", by="container"), legend="{{container}}"),
                    ),
                ),
                Panel(
                    title="Memory",
                    description="Resident, the largest pod of each container.",
                    unit="bytes",
                    queries=(
                        Query(
                            expr="max by (container) (process_resident_memory_bytes)", legend="{{container}}"
                        ),
                    ),
                ),
                Panel(
                    title="Not answering",
                    description="Pods that Prometheus could not scrape.",
                    unit="short",
                    red_above=1,
                    queries=(
                        Query(
                            expr="count by (container) (up == 0) or sum by (container) (up * 0)",
                            legend="{{container}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="The doors",
            panels=(
                Panel(
                    title="HTTP requests",
                    description="By status.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_http_request_duration_seconds_count", by="code"),
                            legend="{{code}}",
                        ),
                    ),
                ),
                Panel(
                    title="Clients that left",
                    description="Before their answer: their runs go on, and are billed.",
                    unit="reqps",
                    queries=(Query(expr=rate("agentteams_http_client_disconnects_total"), legend="left"),),
                ),
                Panel(
                    title="Vectors from memory",
                    description="Share of texts whose vector was remembered or in flight already.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr=ratio(
                                rate(_TEXTS, by="kind", where='outcome!="miss"'), rate(_TEXTS, by="kind")
                            ),
                            legend="{{kind}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Embedding",
            panels=(
                Panel(
                    title="A call, p95",
                    description="One Embed call, waiting included.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_embedding_seconds", by="provider, kind"),
                            legend="{{provider}} {{kind}}",
                        ),
                        Query(expr=quantile(0.95, "agentteams_embedding_rerank_seconds"), legend="rerank"),
                    ),
                ),
                Panel(
                    title="Texts of a pass",
                    description="Texts that went to a model together, on average.",
                    unit="short",
                    queries=(
                        Query(
                            expr=mean("agentteams_embedding_batch_texts", by="provider"),
                            legend="{{provider}}",
                        ),
                    ),
                ),
                Panel(
                    title="Tokens read",
                    description="By the models that embed.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_embedding_tokens_total", by="provider, kind"),
                            legend="{{provider}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="Remembered vectors",
                    description="What the caches hold.",
                    unit="bytes",
                    width=12,
                    queries=(
                        Query(
                            expr="sum by (instance) (agentteams_embedding_cache_bytes)", legend="{{instance}}"
                        ),
                    ),
                ),
                Panel(
                    title="A take-over",
                    description="From the last renewal of a lost owner until another orchestrator went on.",
                    unit="s",
                    width=12,
                    queries=(
                        Query(expr=quantile(0.5, "agentteams_lease_takeover_seconds"), legend="p50"),
                        Query(expr=quantile(0.95, "agentteams_lease_takeover_seconds"), legend="p95"),
                    ),
                ),
            ),
        ),
    ),
)

OPERATOR = Board(
    uid="agentteams-operator",
    title="AgentTeams / Operator",
    description="Whether the custom resources become what they say.",
    rows=(
        Row(
            title="Objects",
            panels=(
                Panel(
                    title="Not ready",
                    description="Objects whose condition Ready is not True, by kind.",
                    unit="short",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr="sum by (kind, status) (max by (kind, condition, status) "
                            '(agentteams_operator_conditions{condition="Ready", status!="True"}))',
                            legend="{{kind}} {{status}}",
                        ),
                    ),
                ),
                Panel(
                    title="Objects",
                    description="That there are, by kind.",
                    unit="short",
                    queries=(Query(expr="max by (kind) (agentteams_operator_objects)", legend="{{kind}}"),),
                ),
                Panel(
                    title="Conditions that say no",
                    description="By kind and type; QualityDegraded and CapacityAtRisk say yes when all is not well.",
                    unit="short",
                    queries=(
                        Query(
                            expr='max by (kind, condition) (agentteams_operator_conditions{status="False", '
                            'condition!~"QualityDegraded|CapacityAtRisk|Progressing"}) > 0',
                            legend="{{kind}} {{condition}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Work",
            panels=(
                Panel(
                    title="Reconciles",
                    description="Looks at objects by outcome; `conflict` and `unavailable` are made again.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_operator_reconciles_total", by="kind, outcome"),
                            legend="{{kind}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="p95 of a reconcile",
                    description="Observe, decide, apply.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_operator_reconcile_seconds", by="kind"),
                            legend="{{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="From a change to its turn",
                    description="How long an object waits in the queue.",
                    unit="s",
                    queries=quantiles("agentteams_operator_queue_wait_seconds"),
                ),
                Panel(
                    title="Waiting and failing objects",
                    description="In the queue, and those whose last look failed.",
                    unit="short",
                    queries=(
                        Query(expr="max(agentteams_operator_queue_keys)", legend="waiting"),
                        Query(
                            expr="sum by (kind) (agentteams_operator_retrying_objects)",
                            legend="failing {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    title="Leader",
                    description="Replicas that work: exactly one.",
                    unit="short",
                    red_below=1,
                    queries=(Query(expr="sum(agentteams_operator_leader)", legend="leaders"),),
                ),
                Panel(
                    title="Watches begun",
                    description="A watch lasts four minutes; many more beginnings are a broken connection.",
                    unit="short",
                    queries=(
                        Query(
                            expr=f"sum by (resource) (increase(agentteams_operator_watches_begun_total[{INTERVAL}]))",
                            legend="{{resource}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
