"""Which models a team can reach, and the rules that hold for all of them together."""

from collections.abc import Callable, Iterator, Mapping

from manifests.loader import Key, LoadedObject
from manifests.model import ModelConfig
from manifests.nesting import nested_teams
from manifests.problems import Complaint, Place
from manifests.team import AgentTeam


def fallback_chain(first: ModelConfig, find: Callable[[str], ModelConfig | None]) -> Iterator[str]:
    """The names of the models to ask after `first`, in order: each fallback, then its own fallbacks."""
    seen = {first.metadata.name}
    ahead = [ref.name for ref in reversed(first.spec.fallback_refs)]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        config = find(name)
        if config is not None:
            ahead.extend(ref.name for ref in reversed(config.spec.fallback_refs))


def reachable_models(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> dict[str, Place]:
    """Every ModelConfig that a run of the team may call, there or not, with the field that leads to it."""
    find = _finder(objects, team.metadata.namespace)
    found: dict[str, Place] = {}
    named = list(_named_models(team))
    for nested, at in nested_teams(team, objects).items():
        inner = objects.get(("AgentTeam", team.metadata.namespace, nested))
        if inner is not None and isinstance(inner.resource, AgentTeam):
            named += [(at, name) for _, name in _named_models(inner.resource)]
    for at, name in named:
        found.setdefault(name, at)
        config = find(name)
        if config is not None:
            for fallback in fallback_chain(config, find):
                found.setdefault(fallback, at)
    return found


def cycles(config: ModelConfig, objects: Mapping[Key, LoadedObject]) -> Iterator[Complaint]:
    """Fallbacks that lead back to where they began."""
    find = _finder(objects, config.metadata.namespace)
    own = config.metadata.name
    for index, ref in enumerate(config.spec.fallback_refs):
        target = config if ref.name == own else find(ref.name)
        leads_back = ref.name == own or (target is not None and own in set(fallback_chain(target, find)))
        if leads_back:
            what = "falls back to itself" if ref.name == own else f'leads back to "{own}"'
            at: Place = ("spec", "fallbackRefs", index, "name")
            yield at, f'"{ref.name}" {what}', "remove this reference, or the one that leads back"


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


def _named_models(team: AgentTeam) -> Iterator[tuple[Place, str]]:
    yield ("spec", "modelConfigRef", "name"), team.spec.model_config_ref.name
    for index, member in enumerate(team.spec.members):
        if member.model_config_ref is not None:
            yield ("spec", "members", index, "modelConfigRef", "name"), member.model_config_ref.name


def _finder(objects: Mapping[Key, LoadedObject], namespace: str) -> Callable[[str], ModelConfig | None]:
    def find(name: str) -> ModelConfig | None:
        loaded = objects.get(("ModelConfig", namespace, name))
        return loaded.resource if loaded and isinstance(loaded.resource, ModelConfig) else None

    return find
