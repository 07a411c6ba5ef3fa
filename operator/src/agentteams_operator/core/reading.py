"""Objects of the API server as manifests: the same models, rules and words as in local mode."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agentteams_operator.core.conditions import Verdict, no, yes
from agentteams_operator.core.objects import Key, Stored
from manifests import API_VERSION, KINDS, LoadedObject, Resource
from manifests.base import dotted
from manifests.problems import Finding, findings

_NOWHERE = Path()
_LINES: Mapping[tuple[str | int, ...], int] = {(): 1}
_CACHE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A manifest, or why it is none.

    Attributes:
        over: Why the namespace may not have it as well.
    """

    resource: Resource | None = None
    problems: tuple[str, ...] = ()
    over: str = ""

    @property
    def accepted(self) -> Verdict:
        """The condition Accepted."""
        if not self.problems and self.over:
            return no("Accepted", "QuotaExceeded", self.over)
        if not self.problems:
            return yes("Accepted", "Valid")
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return no("Accepted", "Invalid", self.problems[0] + more)


class Reader:
    """Reads each generation once."""

    def __init__(self, find: Callable[[Key], Stored | None]) -> None:
        self._find = find
        self._read: dict[Key, tuple[str, int, Read]] = {}

    def read(self, one: Stored) -> Read:
        """What the spec says."""
        known = self._read.get(one.key)
        if known is not None and known[:2] == (one.uid, one.generation):
            return known[2]
        read = _read(one)
        if len(self._read) >= _CACHE:
            del self._read[next(iter(self._read))]
        self._read[one.key] = (one.uid, one.generation, read)
        return read

    def read_as(self, one: Stored) -> Read:
        """What a spec says that is not the object's own: its texts may change without a generation."""
        return _read(one)

    def resource(self, key: Key) -> Resource | None:
        """An object that is there and valid."""
        one = self._find(key)
        return self.read(one).resource if one is not None and one.deleted_at is None else None


class Objects(Mapping[tuple[str, str, str], LoadedObject]):
    """The valid objects as `manifests` takes them, read when they are asked for."""

    def __init__(
        self,
        reader: Reader,
        namespace: str,
        keys: Callable[[], Iterator[Key]],
        *,
        visible: Callable[[Key], bool] = lambda key: True,
    ) -> None:
        self._visible = visible
        self._reader = reader
        self._namespace = namespace
        self._keys = keys

    def __getitem__(self, key: tuple[str, str, str]) -> LoadedObject:
        found = self._reader.resource(Key(*key)) if self._visible(Key(*key)) else None
        if found is None:
            raise KeyError(key)
        return loaded(found)

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return (tuple(key) for key in self._keys() if key.namespace == self._namespace)  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def loaded(resource: Resource) -> LoadedObject:
    """As if it came from a file."""
    return LoadedObject(resource=resource, path=_NOWHERE, lines=_LINES)


def _read(one: Stored) -> Read:
    kind, namespace, name = one.key
    model = KINDS[kind]
    document = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": one.spec,
    }
    try:
        return Read(resource=model.model_validate_json(json.dumps(document)))
    except ValidationError as error:
        found = findings(model, error.errors(include_url=False))
        return Read(problems=tuple(_words(finding) for finding in found))


def _words(finding: Finding) -> str:
    text = f"{dotted(finding.at)}: {finding.message}"
    if finding.value is not None:
        text += f" (got {finding.value})"
    return f"{text}; {finding.fix}" if finding.fix else text
