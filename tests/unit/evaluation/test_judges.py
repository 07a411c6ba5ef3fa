"""Which judge a tenant may ask, and with whose key."""

from pathlib import Path

import pytest

from evaluation.adapters.judges import EndpointJudges
from manifests.endpoints import SecretFiles
from servicekit.errors import NotFound
from tests.support.embedding_fakes import FakeConfigs

SPEC = {
    "type": "Chat",
    "provider": "OpenAICompatible",
    "model": "j",
    "endpoint": {"url": "http://127.0.0.1:1/v1"},
    "credentialsSecretKeyRef": {"name": "llm", "key": "k"},
}


async def test_a_judge_of_another_namespace_is_its_owners_to_allow_at_each_call(tmp_path: Path) -> None:
    (tmp_path / "owner__llm__k").write_text("sk-1")
    configs = FakeConfigs({("owner", "judge"): SPEC}, {("owner", "judge"): ("b",)})
    judges = EndpointJudges(objects=configs, built_in=None, secrets=SecretFiles(tmp_path, by_namespace=True))
    async with judges.lease("b", "owner/judge") as judge:
        assert judge.name == "owner/judge"
    for tenant, name in (("c", "owner/judge"), ("b", "owner/none"), ("b", "judge")):
        with pytest.raises(NotFound, match="let its owner allow it"):
            async with judges.lease(tenant, name):
                pass
    configs.allowed.clear()
    with pytest.raises(NotFound):
        async with judges.lease("b", "owner/judge"):
            pass
    await judges.close()
