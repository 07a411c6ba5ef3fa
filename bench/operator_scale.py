"""How long 1,000 AgentTeams take from apply to Ready, what the operator needs, and that it then is quiet.

`python -m bench.operator_scale`, with the binaries of a Kubernetes API server (tests/support/kube.py). What
else the machine does counts. (A file operator.py would hide Python's module of that name.)
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support.kube import Cluster, temporary_cluster
from tests.support.kube_node import fake_node
from tests.support.operator_process import FakeEndpoint, fake_endpoint, model, running_operator

NAMESPACE = "bench"


def team(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "AgentTeam",
        "metadata": {"name": f"team-{number}", "namespace": NAMESPACE},
        "spec": {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}, {"name": "b"}]},
    }


def ready(cluster: Cluster) -> int:
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    found = cluster.kubectl("get", "at", "-n", NAMESPACE, "-o", f"jsonpath={path}")
    return found.split().count("True")


def versions(cluster: Cluster) -> dict[str, str]:
    kinds = "at,mc,deployments,services,secrets,controllerrevisions,networkpolicies,pdb,roles"
    items = json.loads(cluster.kubectl("get", kinds, "-n", NAMESPACE, "-o", "json"))["items"]
    return {o["kind"] + "/" + o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in items}


def measure(cluster: Cluster, endpoint: FakeEndpoint, count: int, quiet_s: int, folder: Path) -> None:
    cluster.install_crds()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    with fake_node(cluster), running_operator(cluster, folder) as operator:
        process = psutil.Process(operator.process.pid)
        cluster.apply(model(endpoint), namespace=NAMESPACE)
        begun = time.monotonic()
        text = "---\n".join(json.dumps(team(n)) + "\n" for n in range(count))
        cluster.kubectl("create", "-f", "-", stdin=text, timeout_s=600)
        applied = time.monotonic()
        while (seen := ready(cluster)) < count:
            assert time.monotonic() - begun < 600, f"{seen} of {count} are ready"
            time.sleep(0.5)
        done = time.monotonic()
        cpu = process.cpu_times()
        memory = process.memory_info().rss >> 20
        print(f"{count} AgentTeams: applied in {applied - begun:.1f} s, all Ready after {done - begun:.1f} s")
        print(f"operator: {memory} MiB resident, {cpu.user + cpu.system:.1f} s of CPU")
        time.sleep(10)
        before, cpu_before = versions(cluster), process.cpu_times()
        time.sleep(quiet_s)
        changed = [name for name, version in versions(cluster).items() if before.get(name) != version]
        cpu = process.cpu_times()
        spent = cpu.user + cpu.system - cpu_before.user - cpu_before.system
        print(f"then {quiet_s} s: {len(changed)} objects written, {spent:.1f} s of CPU")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teams", type=int, default=1000)
    parser.add_argument("--quiet-seconds", type=int, default=60)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        temporary_cluster(controllers=True) as local,
        fake_endpoint() as fake,
    ):
        measure(local, fake, given.teams, given.quiet_seconds, Path(scratch))
