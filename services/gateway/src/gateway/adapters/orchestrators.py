"""The orchestrators of all namespaces: one in local mode, some pools in each namespace on a cluster.

Any pod of a namespace answers for all of its teams, but a team's runs begin in its own pool only
(docs/operator.md, Runtime): one that is asked for another's refuses and says which pool it is.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

from gateway.core.model import Question, Run, RunItem, Team
from gateway.core.ports import Orchestrator
from servicekit.context import current_caller
from servicekit.errors import FailedPrecondition

FRONT = "agentteams-orchestrator"
"""The Kubernetes Service of all orchestrators of a namespace."""
_ELSEWHERE = "TEAM_SERVED_ELSEWHERE"
_NAMESPACE = "{namespace}"
_MAX_POOLS = 10_000  # remembered; the others cost one refused call


class Orchestrators:
    """As OrchestratorClient, each call where the caller's namespace is.

    Args:
        target: `host:port`; `{service}` and `{namespace}` in it are filled in.
        connect: A client of a target; whoever gives it ends the connections.
    """

    def __init__(self, target: str, *, connect: Callable[[str], Orchestrator]) -> None:
        self._target = target
        self._connect = connect
        self._clients: dict[str, Orchestrator] = {}  # as many as tenants with keys have pools
        self._pools: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def check(self) -> None:
        """Returns if it serves; on a cluster, always: every namespace has its own. Raises: Unavailable."""
        if _NAMESPACE not in self._target:
            await self._client(FRONT).check()

    async def ask(self, question: Question, *, request_id: str) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        """Starts a run and follows it. Raises: ServiceError."""
        key = (current_caller().tenant, question.team)
        service = self._pools.get(key, FRONT)
        try:
            return await self._client(service).ask(question, request_id=request_id)
        except FailedPrecondition as error:
            if error.reason != _ELSEWHERE:
                raise
            named = str(error.metadata.get("pool", ""))
            if not named or named == service:
                raise
        self._remember(key, named)
        return await self._client(named).ask(question, request_id=request_id)

    def follow(self, run: Run) -> AsyncGenerator[RunItem, None]:
        """All that happens to the run until RunEnded. Raises: ServiceError."""
        return self._client(FRONT).follow(run)

    async def team(self, name: str) -> Team:
        """One team. Raises: NotFound and other ServiceErrors."""
        return await self._client(FRONT).team(name)

    async def teams(self) -> Sequence[Team]:
        """All teams of the caller, by name. Raises: ServiceError."""
        return await self._client(FRONT).teams()

    def _client(self, service: str) -> Orchestrator:
        target = self._target
        if _NAMESPACE in target:
            target = target.replace(_NAMESPACE, current_caller().tenant).replace("{service}", service)
        client = self._clients.get(target)
        if client is None:
            client = self._clients[target] = self._connect(target)
        return client

    def _remember(self, key: tuple[str, str], service: str) -> None:
        self._pools[key] = service
        self._pools.move_to_end(key)
        if len(self._pools) > _MAX_POOLS:
            self._pools.popitem(last=False)
