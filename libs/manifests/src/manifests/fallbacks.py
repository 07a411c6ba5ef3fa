"""Which models a team can reach, and the rules that hold for all of them together.

Models are called as the team says them: `name`, or `namespace/name` of another namespace's.
"""

from collections.abc import Callable, Iterator, Mapping

from manifests.base import owner_and_name, said_in
from manifests.loader import Key, LoadedObject
from manifests.model import ModelConfig
from manifests.nesting import nested_teams
from manifests.problems import Complaint, Place
from manifests.team import AgentTeam

Find = Callable[[str], ModelConfig | None]


def fallback_chain(first: ModelConfig, find: Find, namespace: str = "") -> Iterator[str]:
    """The models to ask after `first`, in order: each fallback, then its own fallbacks.

    Args:
        namespace: Who says their names, and finds by them. Empty: the namespace of `first`.
    """
    said = namespace or first.metadata.namespace
    seen = {said_in(said, first.metadata.namespace, first.metadata.name)}
    ahead = list(reversed(_fallbacks(first, said)))
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        config = find(name)
        if config is not None:
            ahead.extend(reversed(_fallbacks(config, said)))


def named_models(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> dict[str, Place]:
    """Every ModelConfig that an agent of the team names, there or not, with the field that leads to it."""
    found: dict[str, Place] = {}
    named = list(_named_models(team))
    for nested, at in nested_teams(team, objects).items():
        inner = objects.get(("AgentTeam", team.metadata.namespace, nested))
        if inner is not None and isinstance(inner.resource, AgentTeam):
            named += [(at, name) for _, name in _named_models(inner.resource)]
    for at, name in named:
        found.setdefault(name, at)
    return found


def reachable_models(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> dict[str, Place]:
    """As `named_models`, with their fallbacks: every ModelConfig that a run of the team may call."""
    namespace = team.metadata.namespace
    find = _finder(objects, namespace)
    found: dict[str, Place] = {}
    for name, at in named_models(team, objects).items():
        found.setdefault(name, at)
        config = find(name)
        if config is not None:
            for fallback in fallback_chain(config, find, namespace):
                found.setdefault(fallback, at)
    return found


def cycles(config: ModelConfig, objects: Mapping[Key, LoadedObject]) -> Iterator[Complaint]:
    """Fallbacks that lead back to where they began."""
    find = _finder(objects, config.metadata.namespace)
    own = config.metadata.name
    for index, name in enumerate(_fallbacks(config, config.metadata.namespace)):
        target = config if name == own else find(name)
        chain = set() if target is None else set(fallback_chain(target, find, config.metadata.namespace))
        if name == own or own in chain:
            what = "falls back to itself" if name == own else f'leads back to "{own}"'
            at: Place = ("spec", "fallbackRefs", index, "name")
            yield at, f'"{name}" {what}', "remove this reference, or the one that leads back"


def price_rules(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> Iterator[Complaint]:
    """One currency for all models of a team; a price for each, if what a run may cost is limited."""
    find = _finder(objects, team.metadata.namespace)
    reached = {name: config for name in reachable_models(team, objects) if (config := find(name)) is not None}
    priced = {name: c.spec.pricing.currency for name, c in reached.items() if c.spec.pricing is not None}
    if len(set(priced.values())) > 1:
        prices = ", ".join(f"{name} in {currency}" for name, currency in sorted(priced.items()))
        message = f"the models that this team can reach have prices in several currencies: {prices}"
        yield ("spec", "modelConfigRef"), message, "give them all in one"
    without = sorted(set(reached) - set(priced))
    listed = ", ".join(without)
    if team.spec.limits.max_cost_per_run is not None and without:
        message = f"needs a price of each model that this team can reach, and none is known of {listed}"
        fix = 'add spec.pricing there ("0" if it costs nothing)'
        yield ("spec", "limits", "maxCostPerRun"), message, fix


def _fallbacks(config: ModelConfig, namespace: str) -> list[str]:
    owner = config.metadata.namespace
    return [said_in(namespace, ref.namespace or owner, ref.name) for ref in config.spec.fallback_refs]


def _named_models(team: AgentTeam) -> Iterator[tuple[Place, str]]:
    namespace = team.metadata.namespace
    yield ("spec", "modelConfigRef", "name"), team.spec.model_config_ref.of(namespace)
    for index, member in enumerate(team.spec.members):
        if member.model_config_ref is not None:
            at = ("spec", "members", index, "modelConfigRef", "name")
            yield at, member.model_config_ref.of(namespace)


def _finder(objects: Mapping[Key, LoadedObject], namespace: str) -> Find:
    def find(name: str) -> ModelConfig | None:
        loaded = objects.get(("ModelConfig", *owner_and_name(namespace, name)))
        return loaded.resource if loaded and isinstance(loaded.resource, ModelConfig) else None

    return find
