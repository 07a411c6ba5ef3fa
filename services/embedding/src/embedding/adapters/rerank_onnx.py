"""A local cross-encoder: onnxruntime and a tokenizer, on the CPU."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from embedding.adapters.onnx import (
    CHARS_PER_TOKEN,
    MODEL_FILE,
    TOKENIZER_FILE,
    open_session,
    open_tokenizer,
    read_config,
)
from embedding.core.admission import Admission
from embedding.core.ports import RerankResult
from embedding.core.work import WorkQueue


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    name: str = Field(min_length=1)
    max_input_tokens: int = Field(ge=8, le=1_048_576)


class OnnxReranker:
    """`Reranker` over a folder with model.onnx, tokenizer.json and config.json.

    The graph takes `input_ids`, `attention_mask` and, if it wants them,
    `token_type_ids`, and gives one logit a pair; scores are its sigmoid. Pairs
    are read one a pass: they are long, and a pass of several is not cheaper
    (256 tokens: 34 ms alone, 36 ms each of eight).
    """

    def __init__(
        self, *, config: _Config, session: Any, tokenizer: Tokenizer, work: WorkQueue, admission: Admission
    ) -> None:
        self._config = config
        self._session = session
        self._inputs = {i.name for i in session.get_inputs()}
        self._tokenizer = tokenizer
        self._work = work
        self._admission = admission

    @classmethod
    def load(cls, folder: Path, *, work: WorkQueue, admission: Admission) -> OnnxReranker:
        """Reads the model and tries it once. Blocks for a second or less.

        Raises:
            ValueError: The folder is not what it should be; says what is wrong.
        """
        config = read_config(folder, _Config, setting="AGENTTEAMS_BUILTIN_RERANK_DIR")
        reranker = cls(
            config=config,
            session=open_session(folder / MODEL_FILE),
            tokenizer=open_tokenizer(folder / TOKENIZER_FILE, config.max_input_tokens),
            work=work,
            admission=admission,
        )
        try:
            got = reranker._run("a query", "a passage")[0].shape
        except Exception as exc:
            # onnxruntime's exceptions have no common base of their own.
            raise ValueError(f"{folder / MODEL_FILE}: cannot score a pair: {exc}") from exc
        if math.prod(got) != 1:
            raise ValueError(f"{folder / MODEL_FILE}: gives {list(got)} for one pair, not one score")
        return reranker

    async def rerank(self, query: str, passages: Sequence[str]) -> RerankResult:
        """See Reranker."""
        with self._admission.hold(len(passages)):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._work.run(partial(self._score, query, passage), urgent=True))
                        for passage in passages
                    ]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
        done = [task.result() for task in tasks]
        return RerankResult(
            scores=[score for score, _ in done],
            truncated=[index for index, (_, cut) in enumerate(done) if cut],
        )

    async def aclose(self) -> None:
        """Waits for the pairs that run; refuses the others."""
        await self._work.aclose()

    # -- in a thread of the work queue ---------------------------------------------

    def _score(self, query: str, passage: str) -> tuple[float, bool]:
        output, cut = self._run(query, passage)
        logit = float(output.reshape(-1)[0])
        if not math.isfinite(logit):
            raise ArithmeticError(f"model {self._config.name} gave a score that is not a number")
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit)))), cut

    def _run(self, query: str, passage: str) -> tuple[Any, bool]:
        longest = self._config.max_input_tokens * CHARS_PER_TOKEN
        pair = self._tokenizer.encode(query[:longest], passage[:longest])
        ids = np.array([pair.ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.array([pair.type_ids], dtype=np.int64)
        output = self._session.run(None, feed)[0]
        return output, bool(pair.overflowing) or len(passage) > longest
