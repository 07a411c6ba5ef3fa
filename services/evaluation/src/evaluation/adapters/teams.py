"""What teams want, from the manifests."""

from datetime import timedelta

from evaluation.core.ports import Policy
from evaluation.core.schedule import GoldenPolicy
from manifests import AgentTeam, Objects
from manifests.knowledge_evaluation import SCHEDULES

_THRESHOLDS = ("faithfulness", "grounding", "retrieval_relevance", "answer_relevance")
_GOLDEN = ("sources_found", "facts_present")


class ManifestTeams:
    """`Teams` and `GoldenTeams` over manifests, which their owner keeps up to date."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def policy(self, tenant: str, team: str) -> Policy:
        """See Teams."""
        found = self._objects.team(tenant, team)
        if found is None:
            return Policy()
        wanted = found.spec.evaluation
        if wanted is None:  # it was scored on demand, or the manifest has changed since
            return Policy(embedding=self._embedding(tenant, team))
        thresholds = [(name, getattr(wanted.thresholds, name)) for name in _THRESHOLDS]
        judge = wanted.judge_model_config_ref
        return Policy(
            judge="" if judge is None else judge.of(tenant),
            max_judge_calls=wanted.max_judge_calls_per_run,
            thresholds=tuple((name, float(value)) for name, value in thresholds if value is not None),
            embedding=self._embedding(tenant, team),
        )

    def revision(self, tenant: str, team: str) -> str | None:
        """See Teams."""
        found = self._objects.team(tenant, team)
        return None if found is None else found.revision

    def scored(self) -> list[str]:
        """namespace/name of those whose runs are scored."""
        return [team.metadata.full_name for team in self._evaluated()]

    def judges(self) -> list[str]:
        """namespace/name of the models that judge them."""
        found: dict[str, None] = {}
        for team in self._evaluated():
            wanted = team.spec.evaluation
            if wanted is not None and (judge := wanted.judge_model_config_ref) is not None:
                found[f"{judge.namespace or team.metadata.namespace}/{judge.name}"] = None
        return list(found)

    def golden(self, tenant: str, team: str) -> GoldenPolicy | None:
        """See GoldenTeams."""
        found = self._objects.team(tenant, team)
        wanted = None if found is None else found.spec.evaluation
        if found is None or wanted is None or wanted.golden_set_ref is None:
            return None
        thresholds = {name: getattr(wanted.thresholds, name) for name in _GOLDEN}
        return GoldenPolicy(
            interval=timedelta(seconds=SCHEDULES[wanted.schedule]),
            revision=found.revision,
            thresholds={name: float(value) for name, value in thresholds.items() if value is not None},
        )

    def _embedding(self, tenant: str, team: str) -> str:
        """The model of the team's first knowledge base; without one, that of the installation."""
        found = self._objects.team(tenant, team)
        for knowledge in found.spec.knowledge if found is not None else ():
            base = self._objects.knowledge_base(tenant, knowledge.knowledge_base_ref.name)
            if base is not None:
                return base.spec.embedding.model_config_ref.of(tenant)
        return "builtin"

    def _evaluated(self) -> list[AgentTeam]:
        return [team for team in self._objects.every_team() if team.spec.evaluation is not None]
