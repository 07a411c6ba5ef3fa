"""Observes the scores of the runs of AgentTeams that have thresholds."""

from collections.abc import Mapping
from dataclasses import replace

from agentteams_operator.core.decide.team_golden import MEANS
from agentteams_operator.core.decide.team_quality import (
    WINDOW,
    ObservedQuality,
    decide_team_quality,
    thresholds,
)
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunScores, Scores, ScoresUnavailable
from agentteams_operator.core.reconciler import Look
from agentteams_operator.core.team_golden_sets import GoldenTeams
from servicekit.clock import Clock

_GOOD_FOR_S = 5.0
_MOST = 4096


class WatchedTeams:
    """Adds to a look at a team what its scores say.

    A team is looked at whenever something near it changes, and asking sums up a day of runs: so an answer
    holds for a moment, and a service that is silent is left alone for one, by all teams.

    Args:
        look: At the team itself.
    """

    def __init__(self, *, look: Look, scores: Scores, golden: GoldenTeams, clock: Clock) -> None:
        self._look = look
        self._golden = golden
        self._scores = scores
        self._clock = clock
        self._known: dict[Key, tuple[float, Mapping[str, RunScores]]] = {}
        self._silent: tuple[float, str] | None = None

    async def look(self, one: Stored) -> Outcome:
        """What to do about an AgentTeam."""
        outcome = await self._look(one)
        limits = thresholds(one.spec)
        golden = await self._golden.look(one)
        if outcome.status is None or not (limits or golden):
            self._known.pop(one.key, None)
            return outcome
        revision = str(outcome.status.get("currentRevision", ""))
        seen = ObservedQuality(limits=limits, revision=revision, golden=golden)
        try:
            found = await self._ask(one.key) if revision and limits.keys() - set(MEANS) else {}
            seen = replace(seen, scores=found.get(revision))
        except ScoresUnavailable as error:
            seen = replace(seen, silent=str(error))
        return decide_team_quality(one, outcome, seen, self._clock.now())

    async def _ask(self, key: Key) -> Mapping[str, RunScores]:
        now = self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and now - known[0] < _GOOD_FOR_S:
            return known[1]
        if self._silent is not None and now - self._silent[0] < _GOOD_FOR_S:
            raise ScoresUnavailable(self._silent[1])
        if self._silent is not None:
            self._silent = (now, self._silent[1])  # one worker finds out; no other waits with it
        try:
            found = await self._scores.by_revision(key.namespace, key.name, window=WINDOW)
        except ScoresUnavailable as error:
            self._silent = (self._clock.monotonic(), str(error))
            raise
        self._silent = None
        self._known.pop(key, None)
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = (now, found)
        return found
