"""What the session service is told about runs of a namespace, and how often."""

from datetime import timedelta
from typing import Any

import pytest

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import POOL, Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunLimitsUnavailable
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.run_quotas import RunQuotas
from servicekit.testing import FakeClock

NOTE = "agentteams.dev/max-concurrent-runs"
SOURCE = f"the annotation {NOTE} of the Namespace"
DEFAULT = '"concurrent-runs" of the installation\'s quotas'


class World:
    """A session service that remembers what it was told, and namespaces."""

    def __init__(self, default: int | None = None) -> None:
        self.changed: list[Key] = []
        self.cache = Cache(self.changed.append)
        self.clock = FakeClock()
        self.told: list[tuple[str, int | None, str]] = []
        self.silent = False
        self._version = 0
        self.pools = RunQuotas(
            look=self._look,
            cache=self.cache,
            quotas=Quotas(cache=self.cache, defaults={} if default is None else {"concurrent-runs": default}),
            limits=self,
            clock=self.clock,
        )

    async def _look(self, one: Stored) -> Outcome:
        return Outcome(gone=(one.key,))

    async def tell(self, namespace: str, most: int | None, *, source: str) -> None:
        """See RunLimits."""
        self.told.append((namespace, most, source))
        if self.silent:
            raise RunLimitsUnavailable("nobody answers")

    def namespace(self, name: str = "n", most: str | None = None, *, teams: bool = True) -> None:
        annotations = {} if most is None else {NOTE: most}
        if teams:
            self._put("AgentTeam", {"name": "t", "namespace": name})
        self._put("Namespace", {"name": name, "annotations": annotations})

    def _put(self, kind: str, metadata: dict[str, Any]) -> None:
        self._version += 1
        given = {"uid": f"u-{kind}", "resourceVersion": str(self._version), **metadata}
        self.cache.put({"kind": kind, "metadata": given})

    async def look(self, namespace: str = "n") -> Outcome:
        key = Key(POOL, namespace, "")
        outcome = await self.pools.look(Stored(key=key, uid="", version=""))
        assert outcome.gone == (key,)  # what the pool needs is done in any case
        return outcome


@pytest.mark.parametrize(
    ("default", "annotation", "expected"),
    [
        (None, None, (None, "")),
        (3, None, (3, DEFAULT)),
        (3, "5", (5, SOURCE)),
        (None, "0", (0, SOURCE)),
        (3, "many", (3, DEFAULT)),
    ],
)
async def test_the_annotation_is_told_else_the_default(
    default: int | None, annotation: str | None, expected: tuple[int | None, str]
) -> None:
    world = World(default)
    world.namespace(most=annotation)
    outcome = await world.look()
    assert world.told == [("n", *expected)]
    assert outcome.again_s == Outcome().again_s


async def test_a_change_is_told_at_once_and_nothing_twice_in_five_minutes() -> None:
    world = World()
    world.namespace(most="1")
    await world.look()
    await world.look()
    world.namespace(most="2")
    assert world.changed[-1] == Key(POOL, "n", "")  # the change brings the look
    await world.look()
    world.namespace()
    await world.look()
    assert [most for _, most, _ in world.told] == [1, 2, None]
    world.clock.advance(timedelta(minutes=10))
    await world.look()
    assert len(world.told) == 4  # a database that was restored holds another number


async def test_nothing_is_told_of_a_namespace_in_which_nothing_runs() -> None:
    world = World(default=3)
    world.namespace("kube-system", teams=False)
    outcome = await world.look("kube-system")
    assert (world.told, outcome.again_s) == ([], Outcome().again_s)


async def test_a_namespace_that_is_gone_leaves_no_number_behind() -> None:
    world = World()
    world.namespace(most="1")
    await world.look()
    world.cache.remove(Key("Namespace", "", "n"))
    assert world.changed[-1] == Key(POOL, "n", "")
    await world.look()
    assert world.told[-1] == ("n", None, "")


async def test_a_silent_service_is_asked_again_soon_by_one_look_for_all() -> None:
    world = World()
    world.silent = True
    for name in "abc":
        world.namespace(name, most="1")
        assert (await world.look(name)).again_s == 10.0
    assert [name for name, *_ in world.told] == ["a"]
    world.clock.advance(timedelta(seconds=10))
    world.silent = False
    for name in "abc":
        assert (await world.look(name)).again_s == Outcome().again_s
    assert [name for name, *_ in world.told] == ["a", "a", "b", "c"]
