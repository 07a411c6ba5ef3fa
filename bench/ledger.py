"""What the evidence ledger saves in a team whose members ask related questions.

    python bench/ledger.py [--json FILE]

Teams of one to four members answer the same question about this repository's
documents, with the ledger and without it, in one process with a scripted
model. Each member searches for the question, and for a question of its own
that another one asks in other words. Tokens are words and punctuation marks
of everything that the models are sent and write.

Exits with 1 if the ledger saves less than half of the searches of four
members, or if a member more costs over 1.5 times what the one before cost.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.grades import Words
from bench.guardrails import documents
from manifests import AgentTeam, ModelConfig
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool, ToolCall
from orchestrator.core.model import Embedding, SearchQuery, SearchResult
from orchestrator.core.ports import ChatModel
from orchestrator.core.run import execute
from orchestrator.core.structured import Schema
from tests.support.model_script import count_tokens, embed_words
from tests.support.orchestrator_fakes import Bench, team

QUESTION = "What happens to a run when the process that works on it is gone?"
OWN = {
    "analyst": "How long is the lease of a run?",
    "engineer": "the lease of the run: how long is it",
    "writer": "How many attempts may a run have?",
    "reviewer": "how many attempts a run may have",
}
LEAST_SAVED = 0.5
MOST_GROWTH = 1.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run."""

    members: int
    policy: str
    delegated: str
    searches: int
    saved: int
    tokens: int


@dataclass
class Model:
    """A leader that asks every member, and members that search once for their own question."""

    members: Sequence[str]
    together: bool
    tokens: int = 0
    asked: int = 0

    @asynccontextmanager
    async def lease(self, config: ModelConfig) -> AsyncIterator[ChatModel]:
        """See ChatModels."""
        yield self

    async def stream(
        self,
        messages: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None = None,
    ) -> AsyncIterator[TextPart | Completion]:
        """See ChatModel."""
        read = sum(count_tokens(message.content) for message in messages)
        calls = self._calls([tool.name for tool in tools], messages)
        text = "" if calls else "It is taken over by another one [1]."
        written = count_tokens(text) + sum(count_tokens(call.arguments) for call in calls)
        self.tokens += read + written
        if text:
            yield TextPart(text=text)
        yield Completion(
            text=text,
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
            model="scripted",
            input_tokens=read,
            output_tokens=written,
        )

    def _calls(self, tools: Sequence[str], messages: Sequence[Prompt]) -> tuple[ToolCall, ...]:
        answered = sum(message.role == "tool" for message in messages)
        if "delegate_task" in tools:
            left = self.members[answered:]
            asked = left if self.together and not answered else left[:1]
            return tuple(
                _call(f"{answered}-{name}", "delegate_task", member=name, task=OWN[name]) for name in asked
            )
        if "search_knowledge" in tools and not answered:
            own = next((OWN[name] for name in self.members if OWN[name] in messages[-1].content), "")
            return (_call("own", "search_knowledge", query=own or OWN[self.members[0]]),)
        return ()


def _call(id_: str, name: str, **arguments: str) -> ToolCall:
    return ToolCall(id=id_, name=name, arguments=json.dumps(arguments))


@dataclass
class Documents:
    """This repository's, searched by words."""

    words: Words = field(default_factory=lambda: Words(documents()))

    async def search(self, query: SearchQuery) -> SearchResult:
        """See Knowledge."""
        chunks = tuple(self.words.chunks(query.text))
        return SearchResult(outcome="OK", chunks=chunks, ready_documents=1, revision="1")

    async def revision(self, knowledge_base: str) -> str:
        """See Knowledge."""
        return "1"


class Vectors:
    """Vectors of words."""

    async def embed_query(self, model: str, text: str) -> Embedding:
        """See Embedder."""
        return Embedding(vector=embed_words(text, 384), model_fingerprint="words")


def manifest(members: Sequence[str], policy: str) -> AgentTeam:
    """A team that searches before each answer, and on demand."""
    bases = [
        {"name": name, "knowledgeBaseRef": {"name": "docs"}, "search": search}
        for name, search in (("first", "Always"), ("more", "OnDemand"))
    ]
    return team(
        *({"name": name, "role": "reads", "knowledge": ["first", "more"]} for name in members),
        knowledge=bases,
        sharing={"evidenceReuse": {"policy": policy}},
        limits={"maxTokensPerRun": 10_000_000},
    )


async def measure(bench: Bench, members: Sequence[str], policy: str, *, together: bool) -> Row:
    """One run."""
    model = Model(members, together)
    bench.store.log.clear()
    bench.models = model  # type: ignore[assignment]  # what it leases is a model
    turn = bench.turn(manifest(members, policy), QUESTION)
    await execute(turn)
    await turn.log.close()
    if turn.end is None or turn.end.state != "SUCCEEDED":
        raise SystemExit(f"the run of {len(members)} members did not succeed: {turn.end}")
    return Row(
        members=len(members),
        policy=policy,
        delegated="at once" if together else "in turn",
        searches=turn.usage.searches,
        saved=turn.usage.searches_saved,
        tokens=model.tokens,
    )


async def run() -> list[Row]:
    """All runs."""
    bench = Bench()
    bench.knowledge = Documents()  # type: ignore[assignment]
    bench.embedder = Vectors()  # type: ignore[assignment]
    names = list(OWN)
    return [
        await measure(bench, names[:count], policy, together=together)
        for together in (True, False)
        for count in range(1, 5)
        for policy in ("Semantic", "Never")
    ]


def growth(rows: Sequence[Row], delegated: str) -> float:
    """The largest step from one number of members to the next, by the smallest; from two members on."""
    tokens = [r.tokens for r in rows if r.policy == "Semantic" and r.delegated == delegated and r.members > 1]
    steps = [after - before for before, after in pairwise(tokens)]
    return max(steps) / min(steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args(arguments)
    rows = asyncio.run(run())
    print("delegated  members  searches made / saved   without   tokens  without")
    for row in rows:
        if row.policy != "Semantic":
            continue
        off = next(
            r
            for r in rows
            if (r.members, r.delegated) == (row.members, row.delegated) and r.policy == "Never"
        )
        print(
            f"{row.delegated:<9}  {row.members:>7}  {row.searches:>13} / {row.saved:<5}  {off.searches:>8}"
            f"  {row.tokens:>7}  {off.tokens:>7}"
        )
    four = next(r for r in rows if r.members == 4 and r.policy == "Semantic" and r.delegated == "at once")
    share = four.saved / (four.saved + four.searches)
    grows = {delegated: round(growth(rows, delegated), 2) for delegated in ("at once", "in turn")}
    print(f"\nfour members: {share:.0%} of the searches saved; a member more costs, most by least: {grows}")
    if asked.json is not None:
        figures = {"bench": "ledger", "rows": [asdict(row) for row in rows], "saved": share, "growth": grows}
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if share >= LEAST_SAVED and max(grows.values()) <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
