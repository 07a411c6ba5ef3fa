"""Who names whom, found in a spec by how fields are called: a new field of the same kind is found too."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentteams_operator.core.objects import CONFIG_MAP, KNOWLEDGE, MODEL, SECRET, TEAM, Key

_KINDS = {
    "modelconfigref": MODEL,
    "knowledgebaseref": KNOWLEDGE,
    "teamref": TEAM,
    "fallbackrefs": MODEL,
    "configmapkeyref": CONFIG_MAP,
}


def references(namespace: str, spec: Mapping[str, Any]) -> set[Key]:
    """All objects that a spec names, there or not."""
    return {
        Key(kind, str(ref.get("namespace") or namespace), ref["name"])
        for kind, ref in _refs(spec)
        if isinstance(ref.get("name"), str)
    }


def secret_keys(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Name and key of all that a spec takes from Secrets."""
    return {
        (ref["name"], ref["key"])
        for kind, ref in _refs(spec)
        if kind == SECRET and isinstance(ref.get("name"), str) and isinstance(ref.get("key"), str)
    }


def _refs(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            kind = _kind(name)
            if kind:
                for one in below if isinstance(below, Sequence) else [below]:
                    if isinstance(one, Mapping):
                        yield kind, one
            else:
                yield from _refs(below)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _refs(one)


def _kind(field: str) -> str:
    name = field.lower()
    if name.endswith(("secretkeyref", "secretref")):
        return SECRET
    return next((kind for end, kind in _KINDS.items() if name.endswith(end)), "")
