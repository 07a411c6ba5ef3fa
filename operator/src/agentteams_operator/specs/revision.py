"""A team's accepted spec, kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentteams_operator.core.objects import MANAGED_BY, MANAGER, TEAM_LABEL, Stored
from manifests.cluster import UNREVISED


def owner_reference(one: Stored) -> dict[str, Any]:
    """Of an object of ours: what it owns goes with it."""
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": one.key.kind,
        "name": one.key.name,
        "uid": one.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def revision_name(team: str, revision: str) -> str:
    """The ControllerRevision of a revision."""
    return f"{team}-{revision}"


def controller_revision(one: Stored, revision: str, number: int) -> dict[str, Any]:
    """The ControllerRevision of what the team asks for now."""
    data: Mapping[str, Any] = {field: value for field, value in one.spec.items() if field not in UNREVISED}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": revision_name(one.key.name, revision),
            "namespace": one.key.namespace,
            "labels": {MANAGED_BY: MANAGER, TEAM_LABEL: one.key.name},
            "ownerReferences": [owner_reference(one)],
        },
        "data": data,
        "revision": number,
    }


def numbers(revisions: Sequence[Stored]) -> dict[str, int]:
    """The number of each, by name."""
    return {one.key.name: int(one.content.get("revision", 0)) for one in revisions}
