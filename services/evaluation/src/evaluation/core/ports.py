"""What the core needs from outside."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.core.model import Job, Record, Scores

Vectors: TypeAlias = npt.NDArray[np.float32]


class Embed(Protocol):
    """Vectors of length 1, one a text. `query`: they are questions, to be compared with passages."""

    async def __call__(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Raises ServiceError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a call of a judge model cost."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Spent):
    """What a judge model said: P(yes)."""

    p_yes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Spent):
    """What a judge model wrote; empty if it came to no end."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood(Spent):
    """How likely a judge model is to write a text: the natural logarithm of that. None: it cannot be had."""

    nats: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a judge model is asked.

    Attributes:
        system: The instruction; empty: none.
        user: The question.
        examples: Questions of the same form with their answers, shown before it.
        words: What says yes, and what says no.
    """

    system: str = ""
    user: str
    examples: tuple[tuple[str, bool], ...] = ()
    words: tuple[str, str] = ("yes", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a judge model is to write after.

    Attributes:
        system: The instruction.
        user: What it is about.
        examples: Others with what was written after them, shown before it.
    """

    system: str
    user: str
    examples: tuple[tuple[str, str], ...]


class JudgeModel(Protocol):
    """A model that answers yes or no. Safe for concurrent calls."""

    name: str
    """The ModelConfig, `namespace/name`."""
    fingerprint: str
    """Changes when equal questions may get other answers."""

    async def ask(self, question: Question) -> Answer:
        """Raises ServiceError."""
        ...

    @property
    def has_likelihoods(self) -> bool:
        """Whether `likelihood` is worth a call: False once it is known to have none."""
        ...

    async def write(self, prompt: Prompt, *, most_tokens: int) -> Text:
        """Raises ServiceError."""
        ...

    async def likelihood(self, prompt: Prompt, text: str) -> Likelihood:
        """How likely it is to write `text`. Raises ServiceError."""
        ...

    def cost(self, spent: Spent) -> tuple[int, str]:
        """Millionths of a currency, and which; 0 and empty where no price is known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a team wants its runs scored.

    Attributes:
        judge: The judge's name in the team's namespace; empty: none.
        max_judge_calls: For one run.
        thresholds: Least scores, by the names of `Scores`.
        embedding: Name of the embedding model.
    """

    judge: str = ""
    max_judge_calls: int = 40
    thresholds: tuple[tuple[str, float], ...] = ()
    embedding: str = "builtin"


class Teams(Protocol):
    """What the manifests say now."""

    def policy(self, tenant: str, team: str) -> Policy:
        """Also of a team that is not there any more: the default then."""
        ...

    def revision(self, tenant: str, team: str) -> str | None:
        """The revision that answers now; None: there is no such team."""
        ...


class Judges(Protocol):
    """The judge models."""

    def lease(self, tenant: str, name: str) -> AbstractAsyncContextManager[JudgeModel]:
        """It stays open for the block. Raises ServiceError."""
        ...


class Runs(Protocol):
    """The runs, as the session service keeps them. Calls are made on the run's user's behalf."""

    async def claim(self, *, most: int) -> tuple[Sequence[Job], int]:
        """Runs to score, now this process', and how many are left. On nobody's behalf."""
        ...

    async def record(self, run: str) -> Record:
        """What a run said and found. Raises ServiceError, FailedPrecondition RUN_NOT_FINISHED."""
        ...

    async def put(self, job: Job, scores: Scores) -> bool:
        """Stores scores; False if others were stored before, which stay."""
        ...


class Asker(Protocol):
    """Asks teams questions, on the caller's behalf."""

    def ask(self, team: str, question: str) -> AsyncIterator[str]:
        """Yields the run's name when it has begun, and ends when it has. Raises ServiceError if it failed."""
        ...
