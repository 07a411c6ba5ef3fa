"""Manifests that are known now: what all sources of them have in common."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from manifests.base import dotted, owner_and_name
from manifests.fallbacks import named_models, reachable_models
from manifests.knowledge import KnowledgeBase
from manifests.loader import Key, LoadedObject, duplicate
from manifests.model import ModelConfig
from manifests.nesting import nested_teams
from manifests.problems import Problem
from manifests.references import check_references
from manifests.sharing import EVERYONE, not_permitted
from manifests.team import AgentTeam


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is known. Replaced as a whole, so that no reader ever sees half of a change."""

    objects: Mapping[Key, LoadedObject] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    reference_problems: Mapping[Key, list[Problem]] = field(default_factory=dict)


class Objects:
    """The objects of one source, by namespace and name. Reading is safe from any thread."""

    def __init__(self, *, python_tools: bool = True) -> None:
        """Knows none yet.

        Args:
            python_tools: Whether teams may have tools that are Python modules.
        """
        self._python_tools = python_tools
        self._state = State()

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong now, by file and line."""
        return list(self._state.problems)

    def team(self, namespace: str, name: str) -> AgentTeam | None:
        found = self._get("AgentTeam", namespace, name)
        return found if isinstance(found, AgentTeam) else None

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        found = self._get("ModelConfig", namespace, name)
        return found if isinstance(found, ModelConfig) else None

    def usable_model(self, tenant: str, said: str) -> ModelConfig | None:
        """The ModelConfig that a tenant calls so: `name`, or `owner/name` of one whose owner allows it.

        Nobody can tell from a None whether it is there.
        """
        owner, name = owner_and_name(tenant, said)
        if owner != tenant and (not tenant or {tenant, EVERYONE}.isdisjoint(self.model_tenants(owner, name))):
            return None
        return self.model(owner, name)

    def model_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        """Who besides its own tenant may use a ModelConfig; EVERYONE for all. Local mode: nobody."""
        return ()

    def knowledge_base(self, namespace: str, name: str) -> KnowledgeBase | None:
        found = self._get("KnowledgeBase", namespace, name)
        return found if isinstance(found, KnowledgeBase) else None

    def teams(self, namespace: str) -> list[AgentTeam]:
        """The teams of a namespace by name, ready or not."""
        return [r for r in self._all(namespace) if isinstance(r, AgentTeam)]

    def every_team(self) -> list[AgentTeam]:
        """The teams of all namespaces by namespace and name, ready or not."""
        return [resource for resource in self._everything() if isinstance(resource, AgentTeam)]

    def every_model(self) -> list[ModelConfig]:
        """The models of all namespaces by namespace and name."""
        return [resource for resource in self._everything() if isinstance(resource, ModelConfig)]

    def models(self, namespace: str) -> list[ModelConfig]:
        """The models of a namespace by name."""
        return [r for r in self._all(namespace) if isinstance(r, ModelConfig)]

    def knowledge_bases(self, namespace: str) -> list[KnowledgeBase]:
        """The knowledge bases of a namespace by name."""
        return [r for r in self._all(namespace) if isinstance(r, KnowledgeBase)]

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """Why a team cannot answer, each with its fix; empty when it can (or is not there).

        An invalid newer version is not among them: the last good one goes on answering.
        """
        state = self._state
        team = state.objects.get(("AgentTeam", namespace, name))
        if team is None or not isinstance(team.resource, AgentTeam):
            return []
        keys: list[Key] = [team.key]
        keys += [("AgentTeam", namespace, nested) for nested in nested_teams(team.resource, state.objects)]
        for key in list(keys):
            loaded = state.objects.get(key)
            if loaded is not None and isinstance(loaded.resource, AgentTeam):
                uses = loaded.resource.spec.knowledge
                keys += [
                    ("KnowledgeBase", namespace, use.knowledge_base_ref.name)
                    for use in uses
                    if not use.knowledge_base_ref.foreign_to(namespace)
                ]
        models = reachable_models(team.resource, state.objects)
        keys += [("ModelConfig", *owner_and_name(namespace, said)) for said in models]
        texts = [] if self._python_tools else list(_python_problems(team.resource))
        texts += _texts_from_elsewhere(team.resource)
        for said, at in named_models(team.resource, state.objects).items():
            owner, model = owner_and_name(namespace, said)
            if owner != namespace and ("ModelConfig", owner, model) not in state.objects:
                texts.append(f"{dotted(at)}: {not_permitted('ModelConfig', owner, model, namespace)}")
        for key in dict.fromkeys(keys):
            for problem in state.reference_problems.get(key, []):
                where = problem.field if key == team.key else f"{problem.object} {problem.field}"
                texts.append(f"{where}: {problem.message}; {problem.fix}")
        return texts

    def allowed_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        """Who in other namespaces may ask a team: their names, EVERYONE for all."""
        team = self.team(namespace, name)
        everyone = team is not None and team.spec.allowed_namespaces.from_ == "All"
        return (EVERYONE,) if everyone else ()

    def _get(self, kind: str, namespace: str, name: str) -> AgentTeam | KnowledgeBase | ModelConfig | None:
        found = self._state.objects.get((kind, namespace, name))
        return found.resource if found else None

    def _all(self, namespace: str) -> list[AgentTeam | KnowledgeBase | ModelConfig]:
        objects = self._state.objects
        return [objects[key].resource for key in sorted(objects) if key[1] == namespace]

    def _everything(self) -> list[AgentTeam | KnowledgeBase | ModelConfig]:
        objects = self._state.objects
        return [objects[key].resource for key in sorted(objects)]


def combine(found: Iterable[LoadedObject], problems: Iterable[Problem], *, local: bool = True) -> State:
    """Objects with their problems; of two of the same name the first counts. `local` as of references."""
    objects: dict[Key, LoadedObject] = {}
    everything = list(problems)
    for loaded in found:
        first = objects.setdefault(loaded.key, loaded)
        if first is not loaded:
            everything.append(duplicate(loaded, first))
    references = check_references(objects, local=local)
    everything.extend(itertools.chain.from_iterable(references.values()))
    everything.sort(key=lambda p: (str(p.path), p.line, p.field))
    return State(
        objects=MappingProxyType(objects),
        problems=tuple(everything),
        reference_problems=MappingProxyType(references),
    )


def _texts_from_elsewhere(team: AgentTeam) -> Iterator[str]:
    holders = [("spec", team.spec.instructions_from)]
    holders += [(f"spec.members[{n}]", m.instructions_from) for n, m in enumerate(team.spec.members)]
    for at, source in holders:
        if source is not None:
            name = source.config_map_key_ref.name
            yield (
                f"{at}.instructionsFrom: ConfigMap {name} can be read on a cluster only, by the operator; "
                "write the text into instructions"
            )


def _python_problems(team: AgentTeam) -> Iterator[str]:
    for index, source in enumerate(team.spec.tools):
        if source.python is not None:
            yield (
                f"spec.tools[{index}].python: module {source.python.module} is not imported here, because "
                "what it does this process would do; serve it as an MCP server, or run the team in local mode"
            )
