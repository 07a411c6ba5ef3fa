"""The orchestrators of all namespaces: one in local mode, some pools in each namespace on a cluster.

Any pod of a namespace answers for all of its teams, but a team's runs begin in its own pool only
(docs/operator.md, Runtime): one that is asked for another's refuses and says which pool it is.
Teams of other namespaces are asked where they are, by calls that carry whose they are
(docs/adr/0015-calls-across-tenants.md).
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from gateway.core.model import NoScores, Question, Run, RunItem, Scores, Team
from gateway.core.ports import Orchestrator
from servicekit.context import current_caller
from servicekit.errors import FailedPrecondition

FRONT = "agentteams-orchestrator"
"""The Kubernetes Service of all orchestrators of a namespace."""
_ELSEWHERE = "TEAM_SERVED_ELSEWHERE"
_NAMESPACE = "{namespace}"
_MAX_POOLS = 10_000  # remembered; the others cost one refused call


class Client(Orchestrator, Protocol):
    """An orchestrator with a connection of its own."""

    async def close(self) -> None:
        """Ends the connection."""
        ...


class Connect(Protocol):
    """Makes clients."""

    def __call__(self, target: str, *, owner: str = "") -> Client:
        """A client of `host:port`; with an `owner`, of that tenant's teams for callers of other tenants."""
        ...


class Orchestrators:
    """As OrchestratorClient, each call where the team's namespace is.

    Args:
        target: `host:port`; `{service}` and `{namespace}` in it are filled in.
        connect: Makes a client of a target.
    """

    def __init__(self, target: str, *, connect: Connect) -> None:
        self._target = target
        self._connect = connect
        # As many as tenants with keys, and owners who let others in, have pools.
        self._clients: dict[tuple[str, str], Client] = {}
        self._spare: list[Client] = []
        self._pools: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def check(self) -> None:
        """Returns if it serves; on a cluster, always: every namespace has its own. Raises: Unavailable."""
        if _NAMESPACE not in self._target:
            await self._client("", FRONT).check()

    async def ask(self, question: Question, *, request_id: str) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        """Starts a run and follows it. Raises: ServiceError."""
        owner, name = _split(question.team)
        question = replace(question, team=name)
        key = (owner or current_caller().tenant, name)
        service = self._pools.get(key, FRONT)
        try:
            return await self._ask(owner, service, question, request_id)
        except FailedPrecondition as error:
            if error.reason != _ELSEWHERE:
                raise
            named = str(error.metadata.get("pool", ""))
            if not named or named == service:
                raise
        self._remember(key, named)
        return await self._ask(owner, named, question, request_id)

    def follow(self, run: Run) -> AsyncGenerator[RunItem, None]:
        """All that happens to the run until RunEnded. Raises: ServiceError."""
        return self._client(run.namespace, FRONT).follow(run)

    async def scores(self, run: Run, *, after: int, within: timedelta) -> Scores | NoScores:
        """See Orchestrator. Raises: ServiceError."""
        return await self._client(run.namespace, FRONT).scores(run, after=after, within=within)

    async def team(self, name: str) -> Team:
        """One team. Raises: NotFound and other ServiceErrors."""
        owner, name = _split(name)
        async with self._asking(owner, FRONT) as client:
            team = await client.team(name)
        return replace(team, name=f"{owner}/{team.name}") if owner else team

    async def teams(self) -> Sequence[Team]:
        """All teams of the caller's namespace, by name. Raises: ServiceError."""
        return await self._client("", FRONT).teams()

    async def close(self) -> None:
        """Ends all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.close()
        while self._spare:
            await self._spare.pop().close()

    async def _ask(
        self, owner: str, service: str, question: Question, request_id: str
    ) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        async with self._asking(owner, service) as client:
            run, items = await client.ask(question, request_id=request_id)
        return replace(run, namespace=owner), items

    @asynccontextmanager
    async def _asking(self, owner: str, service: str) -> AsyncIterator[Client]:
        """The client for a call; one of a namespace that refuses is not kept: anybody can make names up."""
        key = (owner, self._address(owner, service))
        if not owner or key in self._clients:
            yield self._client(owner, service)
            return
        client = self._connect(key[1], owner=owner)
        try:
            yield client
        except BaseException:
            await client.close()
            raise
        if self._clients.setdefault(key, client) is not client:
            self._spare.append(client)  # two were first; what this one began goes on

    def _client(self, owner: str, service: str) -> Client:
        key = (owner, self._address(owner, service))
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = self._connect(key[1], owner=owner)
        return client

    def _address(self, owner: str, service: str) -> str:
        if _NAMESPACE not in self._target:
            return self._target
        namespace = owner or current_caller().tenant
        return self._target.replace(_NAMESPACE, namespace).replace("{service}", service)

    def _remember(self, key: tuple[str, str], service: str) -> None:
        self._pools[key] = service
        self._pools.move_to_end(key)
        if len(self._pools) > _MAX_POOLS:
            self._pools.popitem(last=False)


def _split(team: str) -> tuple[str, str]:
    """The other namespace and the name of a team; no namespace: the caller's own."""
    owner, _, name = team.rpartition("/")
    return ("", name) if owner == current_caller().tenant else (owner, name)
