"""What `kubectl get` reads, without starting it: tests look ten times a second, and it takes 70 ms of CPU."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

# All resources of all groups in one answer, versions in the order of preference.
_DISCOVERY = {"Accept": "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"}
_TIMEOUT_S = 20.0


class NotHere(Exception):
    """Only kubectl itself knows what to make of that."""


class Refused(Exception):
    """The API server's answer is an error; the text is as kubectl writes it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind are."""

    root: str
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str) -> str:
        """Of one object, or of all without a name."""
        where = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.root}{where}/{self.plural}" + (f"/{name}" if name else "")


class Reads:
    """Reads of one API server, over connections that are kept."""

    def __init__(self, server: str, *, authority: Path, token: str) -> None:
        self._client = httpx.Client(
            base_url=server,
            verify=ssl.create_default_context(cafile=str(authority)),
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        self._resources: dict[str, Resource] = {}

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def ready(self) -> bool:
        """Whether the API server says so."""
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def get(self, arguments: Sequence[str]) -> dict[str, Any]:
        """As `kubectl get ARGUMENTS -o json`.

        Raises:
            NotHere: Ask kubectl.
            Refused: There is no such object, or the API server says no.
        """
        plain = [one for one in arguments if not one.startswith("-")]
        flags = [one for one in arguments if one.startswith("-")]
        namespace = "default"
        for flag in flags:
            if flag == "--all-namespaces":
                namespace = ""
            elif flag.startswith("--namespace="):
                namespace = flag.partition("=")[2]
            else:
                raise NotHere
        kinds, _, name = "/".join(plain).partition("/")
        if len(plain) not in (1, 2) or "/" in name or (name and (not namespace or "," in kinds)):
            raise NotHere
        if name:
            return _shown(self._read(self._resource(kinds).path(namespace, name)))
        items = [item for kind in kinds.split(",") for item in self._list(kind, namespace)]
        return {"apiVersion": "v1", "kind": "List", "items": items}

    def _list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        found = self._read(self._resource(kind).path(namespace, ""))
        header = {"apiVersion": found["apiVersion"], "kind": str(found["kind"]).removesuffix("List")}
        return [header | _shown(item) for item in found["items"]]

    def _resource(self, name: str) -> Resource:
        if name not in self._resources:
            self._resources = self._discovered()
        if name not in self._resources:
            raise NotHere
        return self._resources[name]

    def _discovered(self) -> dict[str, Resource]:
        """By plural, singular and short name; those of the first group that has the name, as kubectl does."""
        found: dict[str, Resource] = {}
        for root in ("/api", "/apis"):
            for group in self._read(root, headers=_DISCOVERY)["items"]:
                of_group = f"{root}/{group['metadata']['name']}" if root == "/apis" else root
                version = group["versions"][0]
                for one in version["resources"]:
                    resource = Resource(
                        root=f"{of_group}/{version['version']}",
                        plural=one["resource"],
                        namespaced=one["scope"] == "Namespaced",
                    )
                    for name in (one["resource"], one["singularResource"], *one.get("shortNames", ())):
                        found.setdefault(name, resource)
        return found

    def _read(self, path: str, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.get(path, headers=headers)
        except httpx.TransportError as error:  # it was stopped: kubectl says that, too
            raise NotHere from error
        body: dict[str, Any] = answer.json()
        if not answer.is_success:
            raise Refused(f"Error from server ({body.get('reason')}): {body.get('message')}")
        return body


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    """Without who wrote what, which kubectl shows only when it is told to."""
    item["metadata"].pop("managedFields", None)
    return item
