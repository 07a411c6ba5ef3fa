"""A local sentence-embedding model: onnxruntime and a tokenizer, on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from embedding.core.admission import Admission
from embedding.core.ports import EmbedResult, ModelInfo, TextKind, Vectors
from embedding.core.work import WorkQueue

MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE = "model.onnx", "tokenizer.json", "config.json"

# Padded tokens of one batch. Throughput of all-MiniLM-L6-v2 int8 does not grow
# with the batch (7,600 tokens/s at 1 x 256, 6,400 at 16 x 256), memory and the
# time that a question waits behind a batch do: 512 tokens are 65 ms.
_BATCH_TOKENS = 512
_BATCH_TEXTS = 16
# Encoding this many texts is one job; the longest possible take 0.1 s.
_ENCODE_TEXTS = 32
# A call of at most this many characters is one job: one hop to a thread and back.
SMALL_CHARS = 1500
SMALL_TEXTS = 16
# How much one element of a unit vector may change in the company of other texts.
# Rounding changes 1e-6; a model quantised on the fly has one scale for all
# activations of a batch, and changes 2e-2 (cosine 0.99).
_SAME = 1e-3
# Longer texts are cut before they are tokenised: no 256 tokens of real text
# need that many characters, and tokenising megabytes takes seconds.
CHARS_PER_TOKEN = 64


C = TypeVar("C", bound=BaseModel)


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    name: str = Field(min_length=1)
    dimension: int = Field(ge=1, le=65536)
    max_input_tokens: int = Field(ge=3, le=1_048_576)
    fingerprint: str = Field(min_length=1)
    matryoshka_dimensions: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = ()


@dataclass(frozen=True, slots=True)
class _Encoded:
    ids: list[int]
    truncated: bool


class OnnxEmbedder:
    """`Embedder` over a folder with model.onnx, tokenizer.json and config.json.

    The graph takes `input_ids` and `attention_mask` (and `token_type_ids`, if it
    wants them) and gives one vector a text. Made by `load`; owns the work queue.
    """

    def __init__(
        self,
        *,
        info: ModelInfo,
        session: Any,
        tokenizer: Tokenizer,
        work: WorkQueue,
        admission: Admission,
    ) -> None:
        self._info = info
        self._session = session
        self._inputs = {i.name for i in session.get_inputs()}
        self._output = session.get_outputs()[0].name
        self._tokenizer = tokenizer
        self._work = work
        self._admission = admission
        self._one_by_one = False

    @classmethod
    def load(cls, folder: Path, *, work: WorkQueue, admission: Admission) -> OnnxEmbedder:
        """Reads the model and tries it once. Blocks for a second or less.

        Raises:
            ValueError: The folder is not what it should be; says what is wrong.
        """
        config = read_config(folder, _Config, setting="AGENTTEAMS_BUILTIN_EMBEDDING_DIR")
        info = ModelInfo(
            name=config.name,
            dimension=config.dimension,
            max_input_tokens=config.max_input_tokens,
            fingerprint=config.fingerprint,
            provider="onnx",
            shorter=tuple(sorted(n for n in config.matryoshka_dimensions if n < config.dimension)),
        )
        session = open_session(folder / MODEL_FILE)
        unknown = {i.name for i in session.get_inputs()} - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise ValueError(f"{folder / MODEL_FILE}: unknown inputs {', '.join(sorted(unknown))}")
        embedder = cls(
            info=info,
            session=session,
            tokenizer=open_tokenizer(folder / TOKENIZER_FILE, config.max_input_tokens),
            work=work,
            admission=admission,
        )
        got = embedder._session_run([_Encoded(embedder._tokenizer.encode("a first text").ids, False)]).shape
        if got != (1, config.dimension):
            raise ValueError(
                f"{folder / MODEL_FILE}: gives {list(got)} for one text, "
                f"{CONFIG_FILE} promises [1, {config.dimension}]"
            )
        embedder._one_by_one = not embedder._is_steady()
        return embedder

    async def describe(self) -> ModelInfo:
        """As config.json says."""
        return self._info

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        """Embeds in batches of texts of like length; questions before passages."""
        urgent = kind is TextKind.QUERY
        with self._admission.hold(len(texts)):
            if len(texts) <= SMALL_TEXTS and sum(map(len, texts)) <= SMALL_CHARS:
                encoded, vectors = await self._work.run(partial(self._at_once, texts), urgent=urgent)
            else:
                encoded, vectors = await self._in_batches(texts, urgent=urgent)
        return EmbedResult(
            vectors=vectors,
            truncated=[index for index, one in enumerate(encoded) if one.truncated],
            tokens=[len(one.ids) for one in encoded],
        )

    async def aclose(self) -> None:
        """Waits for the batches that run; refuses the others."""
        await self._work.aclose()

    async def _in_batches(self, texts: Sequence[str], *, urgent: bool) -> tuple[list[_Encoded], Vectors]:
        encoded: list[_Encoded] = []
        for start in range(0, len(texts), _ENCODE_TEXTS):
            part = texts[start : start + _ENCODE_TEXTS]
            encoded += await self._work.run(partial(self._encode, part), urgent=urgent)
        vectors = np.empty((len(texts), self._info.dimension), dtype=np.float32)

        async def one(batch: Sequence[int]) -> None:
            job = partial(self._session_run, [encoded[index] for index in batch])
            vectors[list(batch)] = await self._work.run(job, urgent=urgent)

        try:
            async with asyncio.TaskGroup() as group:
                for batch in plan_batches([len(each.ids) for each in encoded]):
                    group.create_task(one(batch))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return encoded, vectors

    # -- in a thread of the work queue ---------------------------------------------

    def _at_once(self, texts: Sequence[str]) -> tuple[list[_Encoded], Vectors]:
        encoded = self._encode(texts)
        vectors = np.empty((len(texts), self._info.dimension), dtype=np.float32)
        for batch in plan_batches([len(each.ids) for each in encoded]):
            vectors[list(batch)] = self._session_run([encoded[index] for index in batch])
        return encoded, vectors

    def _encode(self, texts: Sequence[str]) -> list[_Encoded]:
        # One by one: encode_batch would start a pool of threads of its own.
        longest = self._info.max_input_tokens * CHARS_PER_TOKEN
        encoded = []
        for text in texts:
            found = self._tokenizer.encode(text[:longest])
            encoded.append(_Encoded(found.ids, bool(found.overflowing) or len(text) > longest))
        return encoded

    def _is_steady(self) -> bool:
        """Whether a text gets the same vector in the company of others."""
        texts = self._encode(["a first text", "and another, which has rather more to say: 1, 2, 3!"])
        together = self._pass(texts)
        alone = np.concatenate([self._pass([text]) for text in texts])
        return bool(np.abs(together - alone).max() < _SAME)

    def _session_run(self, batch: Sequence[_Encoded]) -> Vectors:
        # A vector must not depend on who else asks: it is kept, and compared with others.
        if self._one_by_one:
            return np.concatenate([self._pass([each]) for each in batch])
        return self._pass(batch)

    def _pass(self, batch: Sequence[_Encoded]) -> Vectors:
        width = max(len(each.ids) for each in batch)
        ids: npt.NDArray[np.int64] = np.zeros((len(batch), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, each in enumerate(batch):
            ids[row, : len(each.ids)] = each.ids
            mask[row, : len(each.ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids)
        vectors: Vectors = self._session.run([self._output], feed)[0].astype(np.float32, copy=False)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise ArithmeticError(f"model {self._info.name} gave a vector without a direction")
        normal: Vectors = vectors / lengths
        return normal


def plan_batches(tokens: Sequence[int]) -> list[list[int]]:
    """Indexes in batches: like lengths together, bounded in texts and in padded tokens."""
    batches: list[list[int]] = []
    current: list[int] = []
    # The longest of a batch comes first, so its length is the batch's width.
    for index in sorted(range(len(tokens)), key=lambda i: tokens[i], reverse=True):
        width = tokens[current[0]] if current else 0
        if current and (len(current) == _BATCH_TEXTS or width * (len(current) + 1) > _BATCH_TOKENS):
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches


def read_config(folder: Path, form: type[C], *, setting: str) -> C:
    """The folder's config.json. Raises: ValueError; says what is wrong."""
    path = folder / CONFIG_FILE
    try:
        return form.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ValueError(
            f"{path}: {exc.strerror}; {setting} must name a folder with "
            f"{MODEL_FILE}, {TOKENIZER_FILE} and {CONFIG_FILE}"
        ) from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from exc


def open_session(path: Path) -> Any:
    """The graph. Raises: ValueError; it is none, or wants inputs that no text has."""
    options = ort.SessionOptions()
    # One thread a batch and several batches at a time: a short text on two
    # threads costs twice the CPU (3.7 instead of 1.9 ms) and is not faster.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            # Its fused kernel is scalar: apart, the two nodes make a question of
            # 14 tokens 15 % cheaper and a passage of 128 tokens 17 %.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    except Exception as exc:
        # onnxruntime's exceptions have no common base of their own.
        raise ValueError(f"{path}: cannot be loaded: {exc}") from exc


def open_tokenizer(path: Path, max_input_tokens: int) -> Tokenizer:
    """The tokenizer, cutting at so many tokens. Raises: ValueError."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:
        # tokenizers raises bare Exception.
        raise ValueError(f"{path}: cannot be loaded: {exc}") from exc
    tokenizer.enable_truncation(max_input_tokens)
    tokenizer.no_padding()
    return tokenizer
