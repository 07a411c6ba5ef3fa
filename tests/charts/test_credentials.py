"""The chart mounts for the embedding service what the operator writes, where the service looks for it."""

import pytest

from agentteams_operator.core.credentials import NAME
from tests.charts.test_render import KEYS, named
from tests.support.helm import render


@pytest.mark.parametrize("profile", ["small", "production"])
def test_the_embedding_service_has_the_credentials_of_models(profile: str) -> None:
    objects = render(profile, values=KEYS)
    pod = named(objects, "Deployment/agentteams-embedding")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {one["name"]: one.get("value") for one in container["env"]}
    assert settings["AGENTTEAMS_MANIFESTS_CLUSTER"] == "true"
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == settings["AGENTTEAMS_SECRETS_DIR"]]
    assert "subPath" not in mount  # such a mount would never be brought up to date
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    # Whole, and before there is any: the pod does not wait for the first ModelConfig.
    assert volume["secret"] == {"secretName": NAME, "optional": True, "defaultMode": 0o440}
    # Where the release is, as the embedding service is.
    (operator,) = named(objects, "Deployment/agentteams-operator")["spec"]["template"]["spec"]["containers"]
    where = {one["name"]: one.get("value") for one in operator["env"]}
    assert where["AGENTTEAMS_SYSTEM_NAMESPACE"] == where["AGENTTEAMS_LEASE_NAMESPACE"]
    (role,) = [
        o for o in objects if o["kind"] == "ClusterRole" and o["metadata"]["name"].endswith("-operator")
    ]
    writes = [r for r in role["rules"] if r["resources"] == ["secrets"] and "patch" in r["verbs"]]
    assert NAME in writes[0]["resourceNames"]
