"""`agentteams up` as users call it, with an endpoint that has chat models only."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.model_server import Fault, ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
_BOUND_S = 120.0


async def up(folder: Path, model: ModelServer, **environment: str) -> tuple[int | None, str, str]:
    """Exit code, stdout, stderr of one demo."""
    documents = folder / "mine"
    documents.mkdir(exist_ok=True)
    (documents / "leave.md").write_text("# Leave\n\nEvery employee has thirty days of paid leave a year.\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentteams_cli", "--state", str(folder / "state"), "up", "--free-ports"),
        *("--docs", str(documents), "--demo", "--ask", "How many days of paid leave does an employee have?"),
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")},
            **{"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": model.base_url, "OPENAI_MODEL": "stand-in"},
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_BOUND_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


async def test_an_endpoint_without_embeddings(tmp_path: Path) -> None:
    async with ModelServer() as model:
        model.fail(Fault(kind="status", path="/embeddings", status=501, message="no embeddings", times=None))
        code, _, err = await up(tmp_path, model)
        assert code == 1
        # What is wrong, and only then what cannot be done for that.
        assert "KnowledgeBase docs: model text-embedding-3-small at" in err
        assert "no embeddings" in err
        last = err.splitlines()[-1]
        assert last.startswith("error: no documents can be indexed: KnowledgeBase docs is missing")
        assert last.endswith("set OPENAI_EMBEDDING_MODEL to one that it has, or to local")

        code, out, err = await up(tmp_path, model, OPENAI_EMBEDDING_MODEL="local")
        assert code == 0, err
        assert "and the local model for embeddings, because OPENAI_API_KEY is set" in err
        assert "docs: 1 ready" in out + err
        assert "thirty days" in out
        assert {request.path for request in model.requests} == {"/v1/embeddings", "/v1/chat/completions"}
