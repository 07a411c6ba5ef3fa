"""Scores one run from its log to its stored scores."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from evaluation.core.budget import MinuteBudget
from evaluation.core.judge import Judge, Memory
from evaluation.core.model import Job, Record, Scores
from evaluation.core.ports import Embed, Judges, Policy, Runs, Spent, Teams
from evaluation.core.scoring import score, version

MAX_ATTEMPTS = 5


class Report(Protocol):
    """Where scores are told besides the store."""

    def scored(self, job: Job, scores: Scores, *, seconds: float) -> None:
        """Scores that were stored now, and not before."""
        ...


class Evaluator:
    """Scores runs, one call each.

    Args:
        runs: The runs, and where their scores go.
        teams: What teams want.
        judges: The judge models.
        embedder: Makes the function that embeds with a model of that name.
        memory: What judges have answered.
        budget: What judges may be asked.
        report: Told of scores.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        teams: Teams,
        judges: Judges,
        embedder: Callable[[str], Embed],
        memory: Memory,
        budget: MinuteBudget,
        report: Report,
    ) -> None:
        self._runs = runs
        self._teams = teams
        self._judges = judges
        self._embedder = embedder
        self._memory = memory
        self._budget = budget
        self._report = report

    async def evaluate(self, job: Job) -> tuple[Record, Scores]:
        """Scores a run and stores the scores; the caller is the run's user.

        Raises:
            ServiceError: RUN_NOT_FOUND, RUN_NOT_FINISHED, or something that it needs does not answer.
        """
        began = time.monotonic()
        record = await self._runs.record(job.run)
        policy = self._teams.policy(job.tenant, job.team)
        embed = self._embedder(policy.embedding)
        if policy.judge:
            async with self._judges.lease(job.tenant, policy.judge) as model:
                judge = Judge(
                    model=model, memory=self._memory, max_calls=policy.max_judge_calls, asked=self._asked
                )
                scores = await score(record, embed=embed, judge=judge)
        else:
            scores = await score(record, embed=embed, judge=None)
        scores = replace(scores, below=_below(policy, scores))
        return record, await self._store(job, scores, began)

    def method(self, tenant: str, team: str) -> tuple[str, str]:
        """Evaluator and version of the scores that the team's runs get now."""
        judged = bool(self._teams.policy(tenant, team).judge)
        return "judge" if judged else "local", version(judged)

    async def give_up(self, job: Job, *, expired: bool, reason: str) -> Scores:
        """Stores that there will be no scores, so that the run does not wait any more."""
        judged = bool(self._teams.policy(job.tenant, job.team).judge)
        scores = Scores(
            outcome="EXPIRED" if expired else "FAILED",
            evaluator="judge" if judged else "local",
            version=version(judged),
            reason=reason[:1000],
        )
        return await self._store(job, scores, time.monotonic())

    async def _store(self, job: Job, scores: Scores, began: float) -> Scores:
        if await self._runs.put(job, scores):
            self._report.scored(job, scores, seconds=time.monotonic() - began)
        return scores

    def _asked(self, spent: Spent) -> None:
        self._budget.take(tokens=spent.input_tokens + spent.output_tokens)


def _below(policy: Policy, scores: Scores) -> tuple[str, ...]:
    least = dict(policy.thresholds)
    return tuple(
        name for name, value in scores.named() if value is not None and name in least and value < least[name]
    )
