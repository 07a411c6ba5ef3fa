"""What a ModelConfig takes from secrets, and what of it a header can carry."""

from pathlib import Path

import pytest

from embedding.adapters.catalogue import CatalogueSpecs
from embedding.adapters.secrets import FileSecrets
from embedding.core.ports import SecretRef
from manifests import Catalogue
from servicekit.errors import FailedPrecondition

MANIFEST = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: embed}
spec:
  type: Embedding
  provider: OpenAICompatible
  model: e
  endpoint: {url: "https://models.example.com/v1"}
  headersFrom:
  - {name: X-Project, valueFrom: {secretKeyRef: {name: llm, key: project}}}
  tls: {caSecretKeyRef: {name: ca, key: ca.crt}}
"""


def test_the_references_of_a_manifest_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(MANIFEST)
    catalogue = Catalogue(tmp_path)
    catalogue.load()
    assert catalogue.problems == []
    spec = CatalogueSpecs(catalogue).find("default", "embed")
    assert spec is not None
    assert spec.headers == (("X-Project", SecretRef(name="llm", key="project")),)
    assert spec.authorities == SecretRef(name="ca", key="ca.crt")
    assert spec.secret is None


async def test_only_what_is_no_header_may_have_lines(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "k").write_text("one\ntwo\n")
    secrets = FileSecrets(tmp_path)
    ref = SecretRef(name="ca", key="k")
    assert await secrets.read("default", ref, lines=True) == "one\ntwo"
    with pytest.raises(FailedPrecondition, match="characters that no header can have") as caught:
        await secrets.read("default", ref)
    assert "two" not in caught.value.message


async def test_on_a_cluster_a_secret_is_its_namespaces(tmp_path: Path) -> None:
    (tmp_path / "team-a__llm__key").write_text("sk-a")
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "key").write_text("sk-of-nobody")
    secrets = FileSecrets(tmp_path, by_namespace=True)
    ref = SecretRef(name="llm", key="key")
    assert await secrets.read("team-a", ref) == "sk-a"
    with pytest.raises(FailedPrecondition, match="team-b"):
        await secrets.read("team-b", ref)
