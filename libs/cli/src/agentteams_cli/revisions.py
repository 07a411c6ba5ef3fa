"""Revisions of a team on a cluster: which there are, and which one an undo writes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentteams_cli.errors import CliError
from manifests import API_VERSION
from manifests.cluster import UNREVISED
from manifests.loader import load_data
from manifests.team import AgentTeam
from manifests.texts import texts_from

Raw = Mapping[str, Any]
"""An object as the API server has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """An accepted spec of a team.

    Attributes:
        number: The operator counts up; one that comes back gets a new number.
        name: 12 hex digits over what shapes answers.
        data: The spec, without what belongs to the pods.
        changed: Fields of the spec that are others than in the revision before; of the oldest: none.
    """

    number: int
    name: str
    created: str
    data: Raw
    serves: bool
    wanted: bool
    changed: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return ", ".join(word for word, so in (("serves", self.serves), ("newest", self.wanted)) if so)


def revisions_of(team: Raw, found: Sequence[Raw]) -> list[Revision]:
    """The team's revisions, the newest first."""
    name, present, serving = team["metadata"]["name"], wanted(team), _status(team).get("currentRevision")
    before: Raw | None = None
    made = []
    for one in sorted(found, key=lambda one: int(one.get("revision", 0))):
        data: Raw = one.get("data") or {}
        fields = sorted({*data, *before}) if before is not None else ()
        revision = str(one["metadata"]["name"]).removeprefix(f"{name}-")
        made.append(
            Revision(
                number=int(one.get("revision", 0)),
                name=revision,
                created=str(one["metadata"].get("creationTimestamp", "")),
                data=data,
                serves=revision == serving,
                wanted=revision == present,
                changed=tuple(f for f in fields if before is not None and data.get(f) != before.get(f)),
            )
        )
        before = data
    return made[::-1]


def wanted(team: Raw) -> str:
    """The revision that the team's spec asks for now; empty: it is invalid, or nobody can tell yet."""
    if any(texts_from(team["spec"])):  # the operator knows the texts
        same = _status(team).get("observedGeneration") == team["metadata"].get("generation")
        return str(_status(team).get("updatedRevision", "")) if same else ""
    metadata = {key: team["metadata"][key] for key in ("name", "namespace")}
    document = {"apiVersion": API_VERSION, "kind": "AgentTeam", "metadata": metadata, "spec": team["spec"]}
    content = load_data(document, Path())
    resource = content.objects[0].resource if content.objects else None
    return resource.revision if isinstance(resource, AgentTeam) else ""


def to_undo(team: Raw, found: Sequence[Revision], number: int | None) -> Revision:
    """The revision to write back: the one of that number, else what served before the present spec.

    Raises:
        CliError: There is none.
    """
    name = team["metadata"]["name"]
    if number is not None:
        one = next((one for one in found if one.number == number), None)
        if one is None:
            have = ", ".join(str(one.number) for one in found) or "none"
            raise CliError(
                f"team {name} has no revision {number}", fix=f"name one of those that there are: {have}"
            )
        return one
    others = [one for one in found if not one.wanted]
    if not others:
        raise CliError(
            f"team {name} has no other revision than its present spec",
            fix=f"see agentteams history team {name}",
        )
    # A spec that never served is undone to what serves, not to another that may never have served.
    return next((one for one in others if one.serves), others[0])


def restored(team: Raw, revision: Revision) -> dict[str, Any]:
    """The team with that revision's spec; what belongs to its pods stays as it is."""
    kept = {field: team["spec"][field] for field in UNREVISED if field in team["spec"]}
    return {**team, "spec": {**revision.data, **kept}}


def _status(team: Raw) -> Raw:
    return team.get("status") or {}
