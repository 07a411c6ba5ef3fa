"""Teams of a cluster, by its API server."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource

from agentteams_cli.errors import CliError, Unreachable
from agentteams_cli.revisions import Raw
from manifests.kubernetes_feed import TEAM_LABEL

_TIMEOUT_S = 15.0
_MANAGER = "agentteams-cli"
_TEAM = create_namespaced_resource("agentteams.dev", "v1alpha1", "AgentTeam", "agentteams")
_REVISION = create_namespaced_resource("apps", "v1", "ControllerRevision", "controllerrevisions")
_MISSING, _CONFLICT, _DENIED = 404, 409, (401, 403)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which cluster and namespace; empty: as kubectl would choose."""

    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = ""

    @property
    def named(self) -> bool:
        """Whether somebody said which cluster is meant."""
        return bool(self.kubeconfig or self.context or self.namespace or os.environ.get("KUBECONFIG"))


class Conflicted(CliError):
    """Somebody else changed the object in between."""


class ClusterTeams:
    """Teams of one namespace."""

    def __init__(self, client: AsyncClient, namespace: str, server: str) -> None:
        self._client = client
        self._namespace = namespace
        self._server = server

    async def team(self, name: str) -> Raw:
        """As it is. Raises CliError."""
        try:
            found = await self._client.get(_TEAM, name, namespace=self._namespace)
        except Exception as error:
            raise self._told(error, f'AgentTeam "{name}"', role="view") from error
        return _plain(found)

    async def revisions(self, team: str) -> Sequence[Raw]:
        """Its ControllerRevisions, in no order. Raises CliError."""
        try:
            listing = self._client.list(_REVISION, namespace=self._namespace, labels={TEAM_LABEL: team})
            return [_plain(one) async for one in listing]
        except Exception as error:
            raise self._told(error, "ControllerRevisions", role="view") from error

    async def replace(self, team: Mapping[str, Any]) -> None:
        """Writes it, unless it has changed since it was read. Raises CliError, Conflicted."""
        name = team["metadata"]["name"]
        try:
            await self._client.replace(_TEAM.from_dict(dict(team)), field_manager=_MANAGER)
        except Exception as error:
            raise self._told(error, f'AgentTeam "{name}"', role="edit") from error

    def _told(self, error: Exception, what: str, *, role: str) -> Exception:
        """An error of the client in words; what is none of its is left as it is. `role`: that would do."""
        if isinstance(error, ApiError):
            where, words = f"{what} in namespace {self._namespace}", error.status.message or ""
            return _refused(error.status.code, where, words, role)
        if isinstance(error, httpx2.HTTPStatusError):
            words = f"the API server has no {what} (HTTP {error.response.status_code})"
            return CliError(words, fix="install the chart agentteams-crds")
        if isinstance(error, httpx2.HTTPError | OSError):
            words = f"the API server {self._server} does not answer: {type(error).__name__}"
            return Unreachable(words, fix="see kubectl cluster-info")
        return error


@asynccontextmanager
async def connect(place: Place) -> AsyncIterator[ClusterTeams]:
    """The teams of that place. Raises CliError."""
    try:
        found = KubeConfig.from_file(str(place.kubeconfig)) if place.kubeconfig else KubeConfig.from_env()
        config = found.get(place.context or None)
    except ConfigError as error:
        raise CliError(
            f"no cluster: {error}",
            fix="set KUBECONFIG, or name --kubeconfig and --context; on this machine (agentteams up) "
            "manifests are files: keep them under version control, and apply an earlier version",
        ) from error
    assert config is not None
    namespace = place.namespace or config.namespace or "default"
    client = AsyncClient(config=config, namespace=namespace, timeout=httpx2.Timeout(_TIMEOUT_S))
    try:
        yield ClusterTeams(client, namespace, config.cluster.server)
    finally:
        await client.close()


def _plain(found: Any) -> Raw:
    plain: Raw = found.to_dict()
    return plain


def _refused(code: int | None, what: str, words: str, role: str) -> CliError:
    if code == _MISSING:
        return CliError(f"no {what}", fix="see kubectl get agentteams --all-namespaces")
    if code == _CONFLICT:
        return Conflicted(f"{what} was changed by somebody else", fix="try again")
    return CliError(f"{what}: {words}", fix=f"ask for the role {role} there" if code in _DENIED else "")
