"""A rerank endpoint over a chat model: P(yes) that a passage helps with the question, passage by passage.

No cross-encoder is packaged anywhere that this project can use. This shows what reranking by a small
general model gives, through the same call as any rerank endpoint: POST /rerank in Cohere's form.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.faithfulness import MODEL, local_model
from evaluation.adapters.judge_openai import OpenAIJudge
from evaluation.core.judge import Judge, Memory
from manifests import ModelConfig
from tests.support.ports import free_port

MANIFEST = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: chat-rerank}}
spec:
  type: Rerank
  provider: OpenAICompatible
  model: chat
  endpoint: {{url: "{url}"}}
  limits: {{timeoutSeconds: 600, maxConcurrent: 1}}
"""
_START_S = 60.0


@asynccontextmanager
async def chat_reranker() -> AsyncIterator[str]:
    """Serves while the block lasts; yields the manifest of the model."""
    with local_model() as chat:
        spec = {
            "type": "Chat",
            "provider": "OpenAICompatible",
            "model": MODEL,
            "endpoint": {"url": chat},
            "limits": {"timeoutSeconds": 600},
        }
        config = ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": spec})
        async with AsyncOpenAI(base_url=chat, api_key="none", max_retries=0, timeout=600) as client:
            model = OpenAIJudge(client=client, model=MODEL, config=config)
            judge = Judge(model=model, memory=Memory(most=10_000), max_calls=10_000, parallel=1)
            port = free_port()
            app = Starlette(routes=[Route("/rerank", _endpoint(judge), methods=["POST"])])
            server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
            serving = asyncio.create_task(server.serve())
            async with asyncio.timeout(_START_S):
                while not server.started:  # noqa: ASYNC110  # uvicorn has nothing to wait for
                    await asyncio.sleep(0.05)
            try:
                yield MANIFEST.format(url=f"http://127.0.0.1:{port}")
            finally:
                server.should_exit = True
                with contextlib.suppress(asyncio.CancelledError):
                    await serving


def _endpoint(judge: Judge):  # type: ignore[no-untyped-def]  # Starlette takes any coroutine function
    asked = 0

    async def rerank(request: Request) -> JSONResponse:
        nonlocal asked
        body = await request.json()
        results = []
        for index, passage in enumerate(body["documents"]):
            results.append({"index": index, "relevance_score": await judge.relevant(body["query"], passage)})
        asked += 1
        print(f"\r{asked} queries reranked", end="", file=sys.stderr, flush=True)
        return JSONResponse({"results": results})

    return rerank
