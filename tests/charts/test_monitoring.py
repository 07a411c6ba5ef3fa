"""What Prometheus scrapes, and by which metrics services are scaled."""

import re
from typing import Any

from agentteams_operator.specs.pool import Pool, pool_objects
from agentteams_operator.specs.settings import PoolSettings
from retrieval.core.model import DocumentState
from tests.support.helm import render
from tests.support.telemetry_schema import load_schema

SCHEMA = load_schema()
SCALED = ("gateway", "session", "retrieval", "ingest", "embedding", "evaluation")
# The metric of its own by which each is scaled.
SIGNALS = {
    "gateway": "agentteams_http_open_turns",
    "session": "agentteams_session_pool_wait_seconds_bucket",
    "retrieval": "agentteams_retrieval_searches_in_flight",
    "ingest": "agentteams_retrieval_queue_documents",
    "embedding": "agentteams_embedding_queued_texts",
    "evaluation": "agentteams_evaluation_waiting_runs",
}


def scaled(kind: str) -> dict[str, dict[str, Any]]:
    values = {name: {"autoscaling": {"type": kind}} for name in SCALED}
    values["gateway"]["apiKeysSecret"] = "keys"  # type: ignore[assignment]
    wanted = "ScaledObject" if kind == "KEDA" else "HorizontalPodAutoscaler"
    return {
        one["metadata"]["name"].removeprefix("agentteams-"): one["spec"]
        for one in render(values=values)
        if one["kind"] == wanted
    }


def test_each_service_is_scaled_by_a_signal_of_its_own_that_it_really_sends() -> None:
    found = scaled("KEDA")
    assert set(found) == set(SCALED)
    for name, spec in found.items():
        (trigger,) = spec["triggers"]
        query = trigger["metadata"]["query"]
        assert SCHEMA.problems(query) == []
        assert SIGNALS[name] in query
        assert 'namespace="agentteams-system"' in query
        for state in re.findall(r'state="(\w+)"', query):
            assert state in DocumentState.__members__, "a state that no document has is always 0"
    assert set(scaled("HPA")) == set(SCALED)


def test_what_is_scraped_is_every_pod_of_ours_and_of_pools() -> None:
    objects = render("production", values={"gateway": {"apiKeysSecret": "keys"}})
    (monitor,) = [one for one in objects if one["kind"] == "PodMonitor"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (port,) = [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]]
    pool = [dict(one) for one in pool_objects(Pool(namespace="acme"), PoolSettings(image="o"))]
    deployments = [one for one in (*objects, *pool) if one["kind"] == "Deployment"]
    assert len(deployments) == 8
    for one in deployments:
        template = one["spec"]["template"]
        assert wanted <= template["metadata"]["labels"].items(), one["metadata"]["name"]
        names = [p["name"] for c in template["spec"]["containers"] for p in c["ports"]]
        assert port in names, one["metadata"]["name"]
