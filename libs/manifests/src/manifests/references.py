"""References between objects."""

from collections.abc import Iterable, Iterator, Mapping

from manifests.base import ModelConfigRef, dotted
from manifests.fallbacks import cycles, price_rules
from manifests.knowledge import KnowledgeBase
from manifests.loader import Key, LoadedObject
from manifests.model import ModelConfig, ModelType
from manifests.nesting import nesting_rules
from manifests.problems import Complaint, Problem, closest
from manifests.team import AgentTeam


def check_references(objects: Mapping[Key, LoadedObject], *, local: bool = True) -> dict[Key, list[Problem]]:
    """The problems of each object that refers to something missing or of the wrong type.

    Args:
        local: There is no operator that sees what namespaces allow one another.
    """
    found: dict[Key, list[Problem]] = {}
    for key, loaded in objects.items():
        problems = list(reference_problems(loaded, objects, local=local))
        if problems:
            found[key] = problems
    return found


def reference_problems(
    loaded: LoadedObject, objects: Mapping[Key, LoadedObject], *, local: bool = False
) -> Iterator[Problem]:
    """What is wrong with what one object refers to. Objects of other namespaces are looked at if known."""
    check = _Check(loaded, objects, local=local)
    resource = loaded.resource
    if isinstance(resource, KnowledgeBase):
        at = ("spec", "embedding", "modelConfigRef")
        yield from check.model(resource.spec.embedding.model_config_ref, "Embedding", *at)
        rerank = resource.spec.retrieval.rerank
        if rerank is not None:
            at_rerank = ("spec", "retrieval", "rerank", "modelConfigRef")
            yield from check.model(rerank.model_config_ref, "Rerank", *at_rerank)
    elif isinstance(resource, AgentTeam):
        spec = resource.spec
        yield from check.model(spec.model_config_ref, "Chat", "spec", "modelConfigRef")
        for index, member in enumerate(spec.members):
            if member.model_config_ref is not None:
                at_member = ("spec", "members", index, "modelConfigRef")
                yield from check.model(member.model_config_ref, "Chat", *at_member)
            team_ref = member.team_ref
            if team_ref is not None and not team_ref.foreign_to(resource.metadata.namespace):
                yield from check.exists(
                    "AgentTeam", team_ref.name, "spec", "members", index, "teamRef", "name"
                )
        if spec.evaluation is not None and spec.evaluation.judge_model_config_ref is not None:
            at_judge = ("spec", "evaluation", "judgeModelConfigRef")
            yield from check.model(spec.evaluation.judge_model_config_ref, "Chat", *at_judge)
        for index, knowledge in enumerate(spec.knowledge):
            if knowledge.knowledge_base_ref.foreign_to(resource.metadata.namespace):
                continue  # its owner's matter: the operator and the retrieval service look after it
            at_knowledge = ("spec", "knowledge", index, "knowledgeBaseRef", "name")
            yield from check.exists("KnowledgeBase", knowledge.knowledge_base_ref.name, *at_knowledge)
        yield from check.told(nesting_rules(resource, objects))
        yield from check.told(price_rules(resource, objects))
    else:
        for index, ref in enumerate(resource.spec.fallback_refs):
            yield from check.model(ref, resource.spec.type, "spec", "fallbackRefs", index)
        yield from check.told(cycles(resource, objects))


class _Check:
    def __init__(self, loaded: LoadedObject, objects: Mapping[Key, LoadedObject], *, local: bool) -> None:
        self._local = local
        self._loaded = loaded
        self._objects = objects
        self._namespace = loaded.resource.metadata.namespace

    def exists(self, kind: str, name: str, *at: str | int) -> Iterator[Problem]:
        if (kind, self._namespace, name) in self._objects:
            return
        known = sorted(n for k, ns, n in self._objects if k == kind and ns == self._namespace)
        meant = closest(name, known)
        fix = f'did you mean "{meant}"?' if meant else f"apply that {kind}"
        if not meant and known:
            fix += f", or name one that is there: {', '.join(known[:8])}"
        yield self._problem(f'no {kind} "{name}" in namespace "{self._namespace}"', fix, *at)

    def model(self, ref: ModelConfigRef, wanted: ModelType, *at: str | int) -> Iterator[Problem]:
        foreign = ref.foreign_to(self._namespace)
        if foreign and self._local:
            message = "a ModelConfig of another namespace can be used on a cluster only"
            yield self._problem(message, "apply one in this namespace, and name that", *at, "namespace")
            return
        target = self._objects.get(("ModelConfig", ref.namespace or self._namespace, ref.name))
        if target is None and not foreign:
            yield from self.exists("ModelConfig", ref.name, *at, "name")
        elif target is None:
            return  # its owner's matter: the operator and the services look after it
        elif isinstance(target.resource, ModelConfig) and target.resource.spec.type != wanted:
            said, has = ref.of(self._namespace), target.resource.spec.type
            message = f'ModelConfig "{said}" has type {has}, and {wanted} is needed here'
            yield self._problem(message, f"name a ModelConfig of type {wanted}", *at, "name")

    def told(self, complaints: Iterable[Complaint]) -> Iterator[Problem]:
        for at, message, fix in complaints:
            yield self._problem(message, fix, *at)

    def _problem(self, message: str, fix: str, *at: str | int) -> Problem:
        kind, namespace, name = self._loaded.key
        return Problem(
            path=self._loaded.path,
            line=self._loaded.line_of(*at),
            field=dotted(at),
            message=message,
            fix=fix,
            object=f"{kind} {namespace}/{name}",
        )
