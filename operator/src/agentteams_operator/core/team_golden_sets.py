"""Observes the golden sets that AgentTeams are asked by schedule."""

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

from agentteams_operator.core.decide.team_golden import ObservedGolden
from agentteams_operator.core.golden_sets import Pushes
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.ports import GoldenState, ScoresUnavailable, TeamGoldenSets
from agentteams_operator.core.texts import ConfigMaps
from manifests.golden_questions import FORM, parse_questions
from manifests.knowledge_evaluation import GoldenSetRef


class GoldenTeams:
    """Gives the session service what manifests refer to, and asks how it gets on.

    Args:
        find: Objects of the cache.
    """

    def __init__(
        self, *, find: Callable[[Key], Stored | None], config_maps: ConfigMaps, sets: TeamGoldenSets
    ) -> None:
        self._pushes = Pushes(find=find, config_maps=config_maps, form=FORM)
        self._sets = sets

    async def look(self, one: Stored) -> ObservedGolden | None:
        """None: the team wants none. Raises ApiFailure."""
        ref = _ref(one)
        if ref is None or one.deleted_at is not None:
            self._pushes.forget(one.key)
            return None
        namespace, team = one.key.namespace, one.key.name
        name = f"{ref.config_map_key_ref.name}/{ref.config_map_key_ref.key}"
        put: list[GoldenState] = []

        async def send(text: str) -> str:
            questions = await asyncio.to_thread(parse_questions, text)
            put.append(await self._sets.put(namespace, team, name=name, questions=questions))
            return put[0].sha256

        try:
            state = await self._sets.get(namespace, team)
            there = "" if state is None else state.sha256
            problem = await self._pushes.push(one, ref.config_map_key_ref, name=name, there=there, send=send)
        except ScoresUnavailable as error:
            return ObservedGolden(silent=str(error))
        return ObservedGolden(state=put[0] if put else state, problem=problem)


def _ref(one: Stored) -> GoldenSetRef | None:
    """Also while the rest of the spec is not accepted."""
    found = (one.spec.get("evaluation") or {}).get("goldenSetRef")
    try:
        return GoldenSetRef.model_validate(found) if found else None
    except ValidationError:  # Accepted says so
        return None
