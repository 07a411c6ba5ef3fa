"""Dashboards of knowledge: whether what is found is relevant, and how documents get in."""

from charts.dashboards.panels import Board, Kind, Panel, Query, Row, quantile, quantiles, rate, ratio

_SEARCHES = "agentteams_retrieval_searches_total"

RETRIEVAL = Board(
    uid="agentteams-retrieval",
    title="AgentTeams / Retrieval quality",
    description="Whether searches find what was asked for, how long they take, how many were saved.",
    rows=(
        Row(
            title="Outcome",
            panels=(
                Panel(
                    title="Searches by outcome",
                    description="DEGRADED gave something up and says what; FAILED found out nothing.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(Query(expr=rate(_SEARCHES, by="outcome"), legend="{{outcome}}"),),
                ),
                Panel(
                    title="What they gave up",
                    description="Reasons of degraded and failed searches.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_search_reasons_total", by="reason"),
                            legend="{{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="A search",
                    description="With the embedding if the service made it.",
                    unit="s",
                    queries=quantiles("agentteams_retrieval_search_seconds", exemplars=True),
                ),
            ),
        ),
        Row(
            title="Relevance",
            panels=(
                Panel(
                    title="Similarity of the best chunk",
                    description="Cosine to the query. A fall of the median after a change of documents or model is "
                    "a planted irrelevance until proven otherwise.",
                    unit="short",
                    queries=tuple(
                        Query(expr=quantile(q, "agentteams_retrieval_top_similarity"), legend=f"p{q * 100:g}")
                        for q in (0.1, 0.5, 0.9)
                    ),
                ),
                Panel(
                    title="Evidence by grade",
                    description="How well what was found fits its query, as the orchestrator grades it.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(expr=rate("agentteams_evidence_grades_total", by="grade"), legend="{{grade}}"),
                    ),
                ),
                Panel(
                    title="Chunks found",
                    description="By a search, after minimum score and grouping.",
                    unit="short",
                    queries=quantiles("agentteams_retrieval_found_chunks"),
                ),
            ),
        ),
        Row(
            title="Evidence ledger",
            panels=(
                Panel(
                    title="Who answered",
                    description="SEARCH went to Milvus; the others were answered by what members found before.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_ledger_searches_total", by="source"), legend="{{source}}"
                        ),
                    ),
                ),
                Panel(
                    title="Searches saved, by team",
                    description="Share that the ledger answered.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr=ratio(
                                rate("agentteams_ledger_searches_total", by="team", where='source!="SEARCH"'),
                                rate("agentteams_ledger_searches_total", by="team"),
                            ),
                            legend="{{team}}",
                        ),
                    ),
                ),
                Panel(
                    title="Second searches",
                    description="Made in other words because the first found nothing that fits, by what came of them; "
                    "and marks in answers whose number no evidence has.",
                    unit="reqps",
                    queries=(
                        Query(
                            expr=rate("agentteams_ledger_corrections_total", by="grade"), legend="{{grade}}"
                        ),
                        Query(expr=rate("agentteams_unknown_citations_total"), legend="unknown citations"),
                    ),
                ),
            ),
        ),
        Row(
            title="Golden sets",
            panels=(
                Panel(
                    title="Scores",
                    description="Newest score of each watched knowledge base, 0 to 1.",
                    unit="percentunit",
                    queries=(
                        Query(
                            expr="max by (knowledge_base, metric) (agentteams_retrieval_quality_score)",
                            legend="{{knowledge_base}} {{metric}}",
                        ),
                    ),
                ),
                Panel(
                    title="Watched knowledge bases",
                    description="By what the thresholds of spec.evaluation say.",
                    unit="short",
                    queries=(
                        Query(
                            expr="max by (state) (agentteams_retrieval_quality_knowledge_bases)",
                            legend="{{state}}",
                        ),
                    ),
                ),
                Panel(
                    title="Evaluations",
                    description="By schedule, that ended.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_evaluations_total", by="outcome"),
                            legend="{{outcome}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Index",
            panels=(
                Panel(
                    title="Tunings of indexes",
                    description="Attempts by kind and how they ended.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    width=12,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_tunings_total", by="kind, outcome"),
                            legend="{{kind}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    title="A tuning",
                    description="One attempt, building an index anew included.",
                    unit="s",
                    width=12,
                    queries=quantiles("agentteams_retrieval_tuning_seconds"),
                ),
            ),
        ),
    ),
)

INGEST = Board(
    uid="agentteams-ingest",
    title="AgentTeams / Ingest",
    description="Documents on their way into the knowledge bases.",
    rows=(
        Row(
            title="Queue",
            panels=(
                Panel(
                    title="Documents by state",
                    description="That wait, are being indexed, or failed.",
                    unit="short",
                    queries=(
                        Query(
                            expr="max by (state) (agentteams_retrieval_queue_documents)", legend="{{state}}"
                        ),
                    ),
                ),
                Panel(
                    title="Oldest that waits",
                    description="How long the document that waits longest has waited. The alert is at 15 minutes.",
                    unit="s",
                    red_above=900,
                    queries=(Query(expr="max(agentteams_retrieval_queue_oldest_seconds)", legend="oldest"),),
                ),
                Panel(
                    title="Ended",
                    description="READY can be found; FAILED says why (`agentteams documents KB --in-state failed`).",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_ingested_documents_total", by="state"),
                            legend="{{state}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Where the time goes",
            panels=(
                Panel(
                    title="Steps of indexing",
                    description="Seconds a second spent in each.",
                    unit="s",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_ingest_stage_seconds_sum", by="stage"),
                            legend="{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    title="p95 of a step",
                    description="For one document or batch.",
                    unit="s",
                    queries=(
                        Query(
                            expr=quantile(0.95, "agentteams_retrieval_ingest_stage_seconds", by="stage"),
                            legend="{{stage}}",
                        ),
                    ),
                ),
                Panel(
                    title="Texts embedded",
                    description="For documents and for queries.",
                    unit="reqps",
                    kind=Kind.STACKED,
                    queries=(
                        Query(
                            expr=rate("agentteams_embedding_texts_total", by="kind, provider"),
                            legend="{{kind}} {{provider}}",
                        ),
                    ),
                ),
                Panel(
                    title="Mended by comparisons",
                    description="Chunks without a document, and documents without chunks, that the reconciler found. "
                    "Anything but nothing is worth a look.",
                    unit="reqps",
                    width=12,
                    red_above=0.001,
                    queries=(
                        Query(
                            expr=rate("agentteams_retrieval_reconciled_total", by="what"), legend="{{what}}"
                        ),
                    ),
                ),
                Panel(
                    title="Texts that were cut",
                    description="Longer than their model reads: what is beyond cannot be found by meaning.",
                    unit="reqps",
                    width=12,
                    queries=(
                        Query(
                            expr=rate("agentteams_embedding_truncated_texts_total", by="provider, kind"),
                            legend="{{provider}} {{kind}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
