"""AgentTeam: agents that answer together."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from manifests.answer import AnswerFormat
from manifests.base import (
    API_VERSION,
    Cost,
    Metadata,
    Model,
    ModelConfigRef,
    Name,
    SharedRef,
    Similarity,
    Threshold,
    Violation,
    duplicates,
    refuse,
)
from manifests.cel import BY_NAME, SET
from manifests.evaluation import Evaluation
from manifests.filters import FilterError, parse_filter
from manifests.guardrails import Guardrails
from manifests.knowledge_retrieval import SearchModeName
from manifests.runtime import Runtime
from manifests.session import SessionPolicy
from manifests.sharing import AllowedNamespaces
from manifests.team_ref import TeamRef, team_member_rules
from manifests.team_rules import MEMBER_RULES, TEAM_RULES
from manifests.texts import MAX_TEXT, TextFrom, one_of_instructions
from manifests.tools import Approvals, ToolSource, tool_violations
from manifests.workflow import Workflow
from manifests.workflow_check import workflow_violations

UNREVISED = frozenset({"allowed_namespaces", "evaluation", "runtime", "suspend"})
"""Fields of the spec that do not shape answers."""

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
ShortText = Annotated[str, StringConstraints(max_length=1024)]


class Member(Model):
    """One agent of a team."""

    cel: ClassVar = MEMBER_RULES

    name: Name = Field(description="Unique within the team; the leader delegates by it.")
    role: ShortText = Field(
        default="", description="What it is good at, in a sentence; the leader chooses by it."
    )
    instructions: Text = Field(default="", description="Its system prompt.")
    instructions_from: TextFrom | None = Field(
        default=None, description="Where its system prompt is, instead of instructions. Only on a cluster."
    )
    model_config_ref: ModelConfigRef | None = Field(
        default=None, description="A ModelConfig of type Chat. Default: the team's."
    )
    knowledge: tuple[Name, ...] = Field(
        default=(),
        max_length=16,
        description="What it may search: names of spec.knowledge.",
        json_schema_extra={**SET},
    )
    tools: tuple[Name, ...] = Field(
        default=(),
        max_length=16,
        description="What it may do: names of spec.tools.",
        json_schema_extra={**SET},
    )
    team_ref: TeamRef | None = Field(
        default=None,
        description="The member is another team, which does its tasks in its own mode, within the same run "
        "and its limits; one of another namespace in a run of its own. Instead of instructions, "
        "modelConfigRef, knowledge and tools.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(one_of_instructions(self.model_fields_set, self.instructions_from))
        return self


class EvidenceReuse(Model):
    """When a search of one member is answered by an earlier one of another."""

    policy: Literal["Never", "Exact", "Semantic"] = Field(
        default="Semantic",
        description="Never: every search is made. Exact: the same query is not searched twice in a run. "
        "Semantic: nor is one that means the same.",
    )
    min_similarity: Threshold = Field(
        default="0.92",
        description="With Semantic: least cosine similarity of two queries that count as the same. "
        'Decimal in quotes, "0" to "1".',
    )
    scope: Literal["Run", "Session"] = Field(
        default="Run",
        description="Run: earlier searches of the same run. Session: also those of the session's last runs, "
        "if the team and the documents have not changed since.",
    )


class Sharing(Model):
    """What members see of one another's work within a run."""

    evidence_reuse: EvidenceReuse = Field(
        default_factory=EvidenceReuse, description="When an earlier search answers a later one."
    )
    member_interactions: Literal["None", "Answers", "AnswersAndEvidence"] = Field(
        default="AnswersAndEvidence",
        description="What a member is shown of the members before it: nothing, their answers, or also the "
        "evidence that they found.",
    )
    max_interactions: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Most answers of other members that a member is shown, the latest. Those of tasks that "
        "its own depends on (mode Tasks) are shown in any case.",
    )


class KnowledgeBaseRef(SharedRef):
    """Refers to a KnowledgeBase."""

    name: Name = Field(description="Name of a KnowledgeBase.")
    namespace: Name | None = Field(
        default=None,
        description="Its namespace, if that is another one: its spec.allowedNamespaces must allow this one. "
        "Only on a cluster. Default: the team's.",
    )


class Knowledge(Model):
    """A knowledge base as this team uses it."""

    name: Name = Field(description="What members call it; unique within the team.")
    knowledge_base_ref: KnowledgeBaseRef = Field(description="The knowledge base.")
    top_k: int | None = Field(
        default=None, ge=1, le=100, description="Most chunks of one search. Default: the knowledge base's."
    )
    search_mode: SearchModeName | None = Field(default=None, description="Default: the knowledge base's.")
    min_score: Similarity | None = Field(
        default=None,
        description="Chunks below this cosine similarity to the query are left out of dense and hybrid "
        'searches. Decimal in quotes, "-1" to "1". Default: the knowledge base\'s.',
    )
    filter: Annotated[str, StringConstraints(max_length=4096)] = Field(
        default="",
        description="Only chunks of documents whose metadata it allows, such as "
        '`year >= 2020 and (lang == "en" or not has draft)`. Default: all.',
    )
    max_per_document: int | None = Field(
        default=None, ge=1, le=100, description="Most chunks of one document. Default: no bound."
    )
    neighbours: int = Field(
        default=0,
        ge=0,
        le=5,
        description="Chunks before and after each one that is found that are shown with it, as its context.",
    )
    search: Literal["Always", "OnDemand"] = Field(
        default="OnDemand",
        description="Always: agents search before each answer. OnDemand: when the model asks for it.",
    )
    on_empty: Literal["Answer", "Refuse"] = Field(
        default="Answer",
        description="When a search finds nothing. Answer: the model is told so and answers. Refuse: the "
        "answer is that nothing was found.",
    )


class Limits(Model):
    """Where a run is stopped."""

    max_turns: int = Field(default=12, ge=1, le=200, description="Model calls of one agent within a run.")
    max_tool_calls: int = Field(
        default=40, ge=0, le=1000, description="Tool calls of a run, all agents together."
    )
    run_timeout_seconds: int = Field(default=600, ge=1, le=86_400, description="Wall time of a run.")
    max_tokens_per_run: int = Field(
        default=60_000,
        ge=256,
        le=100_000_000,
        description="Tokens sent and written in a run, all agents together.",
    )
    max_cost_per_run: Cost | None = Field(
        default=None,
        description="What the model calls of a run may cost, all agents together, in the currency of the "
        'models\' pricing. Decimal in quotes, such as "0.50". Default: no bound.',
    )
    max_concurrent_runs: int = Field(
        default=50,
        ge=1,
        le=100_000,
        description="Runs of this team at a time, wherever they run; one more is refused until one ends.",
    )


class AgentTeamSpec(Model):
    """What an AgentTeam asks for."""

    cel: ClassVar = TEAM_RULES
    unchecked: ClassVar = "expressions and templates, steps below the first level, circles of definitions"

    description: ShortText = Field(default="", description="What the team is for, shown in lists.")
    mode: Literal["Coordinate", "Route", "Broadcast", "Tasks", "Workflow"] = Field(
        default="Coordinate",
        description="How members work together. Coordinate: a leader delegates tasks and writes the answer. "
        "Route: a leader chooses one member, whose answer is the team's. Broadcast: all members answer side "
        "by side, and a leader makes one answer of theirs. Tasks: a leader writes a list of tasks that may "
        "depend on one another, members work it off, the leader answers. Workflow: the steps of "
        "spec.workflow, in their order.",
    )
    model_config_ref: ModelConfigRef = Field(
        description="A ModelConfig of type Chat: the leader's, and the members' unless they name another."
    )
    instructions: Text = Field(default="", description="The leader's system prompt.")
    instructions_from: TextFrom | None = Field(
        default=None,
        description="Where the leader's system prompt is, instead of instructions. Only on a cluster: the "
        "text becomes part of the revision, and another text is another revision.",
    )
    members: tuple[Member, ...] = Field(
        min_length=1,
        max_length=32,
        description="The agents. One member alone is an agent without a leader.",
        json_schema_extra={**BY_NAME},
    )
    sharing: Sharing = Field(default_factory=Sharing, description="What members see of one another's work.")
    knowledge: tuple[Knowledge, ...] = Field(
        default=(),
        max_length=16,
        description="Knowledge bases that members may search.",
        json_schema_extra={**BY_NAME},
    )
    workflow: Workflow | None = Field(default=None, description="With mode Workflow: the steps.")
    answer: AnswerFormat | None = Field(default=None, description="The form of answers. Default: text.")
    tools: tuple[ToolSource, ...] = Field(
        default=(),
        max_length=16,
        description="What members may do besides searching.",
        json_schema_extra={**BY_NAME},
    )
    approvals: Approvals = Field(
        default_factory=Approvals, description="Who allows tool calls, and how long a run waits for people."
    )
    guardrails: Guardrails = Field(
        default_factory=Guardrails, description="What is looked for in texts, and what is done about it."
    )
    limits: Limits = Field(default_factory=Limits, description="Where a run is stopped.")
    session: SessionPolicy = Field(
        default_factory=SessionPolicy,
        description="What the team knows of the conversation before a question, and of its user.",
    )
    evaluation: Evaluation | None = Field(
        default=None, description="How the quality of its runs is measured. Default: it is not."
    )
    runtime: Runtime | None = Field(
        default=None,
        description="Pods of the team's own. Default: those that all teams of the namespace share. "
        "Local mode has one process for all.",
    )
    allowed_namespaces: AllowedNamespaces = Field(
        default_factory=AllowedNamespaces,
        description="From which other namespaces the team may be asked, as `<namespace>/<team>`: it works "
        "with its own models, Secrets, knowledge and limits all the same. Local mode has no labels of "
        "namespaces: a Selector lets nobody in there.",
    )
    suspend: bool = Field(default=False, description="Begins no runs; those that are active go on.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        yield from one_of_instructions(self.model_fields_set, self.instructions_from)
        yield from duplicates([m.name for m in self.members], "members")
        yield from duplicates([k.name for k in self.knowledge], "knowledge")
        yield from tool_violations(self.tools, [m.tools for m in self.members])
        yield from team_member_rules(self.members)
        for index, use in enumerate(self.knowledge):
            if use.filter:
                try:
                    parse_filter(use.filter)
                except FilterError as error:
                    yield Violation(
                        ("knowledge", index, "filter"),
                        str(error),
                        'write comparisons such as lang == "en", joined by and, or, not',
                    )
        known = [k.name for k in self.knowledge]
        for index, member in enumerate(self.members):
            for position, name in enumerate(member.knowledge):
                at = ("members", index, "knowledge", position)
                if name not in known:
                    have = ", ".join(known) or "nothing yet"
                    yield Violation(
                        at,
                        f'"{name}" is not in spec.knowledge, which has {have}',
                        "add it there, or name one that is there",
                    )
                elif name in member.knowledge[:position]:
                    yield Violation(at, f'"{name}" is listed twice', "remove one")
        yield from workflow_violations(self.mode, self.workflow, [m.name for m in self.members])


class AgentTeam(Model):
    """Agents that answer together."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["AgentTeam"] = Field(default="AgentTeam", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: AgentTeamSpec = Field(description="What is asked for.")

    @cached_property
    def revision(self) -> str:
        """12 hex digits that change with what shapes answers; defaults written out count as the same."""
        # instructionsFrom: a revision is made of the texts themselves.
        left_out = {**dict.fromkeys(UNREVISED, True), "instructions_from": True}
        members = {"__all__": {"instructions_from": True}}
        spec = self.spec.model_dump(mode="json", by_alias=True, exclude={**left_out, "members": members})
        of_members = (member[ref] for member in spec["members"] for ref in ("modelConfigRef", "teamRef"))
        uses = (use["knowledgeBaseRef"] for use in spec["knowledge"])
        for ref in (spec["modelConfigRef"], *of_members, *uses):
            if ref is not None and ref["namespace"] is None:  # as before there was the field
                del ref["namespace"]
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
