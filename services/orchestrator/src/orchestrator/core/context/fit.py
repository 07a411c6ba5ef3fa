"""Makes a prompt fit its budget. What goes first is declared here, in `fit`, and in docs/context.md."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.chat import Prompt, PromptKind, Tool
from orchestrator.core.context import marks
from orchestrator.core.context.tokens import Measure, prompt_tokens, tokens, tool_tokens
from orchestrator.core.model import Trimmed
from orchestrator.core.prompts import DELEGATE

_FLOOR_TOKENS = 96  # of a text that is cut, its mark included: less says nothing
_SHRINK = 0.9


KINDS = ("history", "memory", "summary", "evidence", "tool_result", "report")
"""What can be left out or cut, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A prompt as it is sent.

    Attributes:
        needed_tokens: Before anything was left out.
        tokens: Of what is left; more than the budget if even that does not fit.
        trimmed: What was left out or cut, in this order.
    """

    prompts: list[Prompt]
    needed_tokens: int
    tokens: int
    trimmed: tuple[Trimmed, ...]


def fit(prompts: Sequence[Prompt], tools: Sequence[Tool], *, budget_tokens: int, measure: Measure) -> Fitted:
    """Leaves out what must be, in this order, and no more of each than needed.

    1. The conversation before, the oldest exchange first; then memories; then its summary.
    2. Chunks of evidence, the weakest of all blocks first; the best of each block stays.
    3. Tool results: the longest is cut until it is as long as the next, and so on.
    4. Members' reports, likewise.

    System prompts, the question, and what the agent itself said stay whole, and
    each tool call keeps its answer. The result depends on the arguments alone.
    """
    draft = _Draft(prompts, tools, budget_tokens=budget_tokens, measure=measure)
    needed = draft.tokens
    trimmed = [
        draft.drop("history"),
        draft.drop("memory"),
        draft.drop("summary"),
        draft.drop_chunks(),
        draft.cut_longest("tool_result", draft.answers(delegated=False)),
        draft.cut_longest("report", [*draft.answers(delegated=True), *draft.reports()]),
    ]
    return Fitted(
        prompts=[prompt for prompt in draft.prompts if prompt is not None],
        needed_tokens=needed,
        tokens=draft.tokens,
        trimmed=tuple(done for done in trimmed if done.count),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A part of a message that may be cut."""

    index: int
    start: int
    end: int
    tokens: int


class _Draft:
    """The messages while they are trimmed; what is dropped is None."""

    def __init__(
        self, prompts: Sequence[Prompt], tools: Sequence[Tool], *, budget_tokens: int, measure: Measure
    ) -> None:
        self.prompts: list[Prompt | None] = list(prompts)
        self._measure = measure
        self._budget = budget_tokens
        self._sizes = [prompt_tokens(prompt, measure) for prompt in prompts]
        self._tools = tool_tokens(tools, measure)

    @property
    def tokens(self) -> int:
        return self._tools + sum(self._sizes)

    @property
    def _excess(self) -> int:
        return self.tokens - self._budget

    def drop(self, kind: PromptKind) -> Trimmed:
        """Messages of one kind: the oldest first, each of the user's with what answers it."""
        before, count = self.tokens, 0
        exchanges: list[list[int]] = []
        for index, prompt in self._whole():
            if prompt.kind == kind:
                if prompt.role == "user" or not exchanges:
                    exchanges.append([])
                exchanges[-1].append(index)
        for exchange in exchanges:
            if self._excess <= 0:
                break
            for index in exchange:
                self.prompts[index], self._sizes[index] = None, 0
                count += 1
        return Trimmed(kind=kind, count=count, tokens=before - self.tokens)

    def drop_chunks(self) -> Trimmed:
        """Chunks of evidence: those with the most better ones in their block, of the earliest block first."""
        before, excess = self.tokens, self._excess
        if excess <= 0:
            return Trimmed(kind="evidence", count=0, tokens=0)
        blocks = [
            (index, block)
            for index, prompt in self._whole()
            if prompt.role in ("user", "tool")
            for block in marks.evidence_blocks(prompt.content)
        ]
        contents = {index: prompt.content for index, prompt in self._whole()}
        weakest_first = sorted(
            (position - len(block.chunks), number, chunk)
            for number, (_, block) in enumerate(blocks)
            for position, chunk in enumerate(block.chunks[:-1])
        )
        left_out = [0] * len(blocks)
        for _, number, chunk in weakest_first:
            if excess <= 0:
                self._write(contents, blocks, left_out)
                if (excess := self._excess) <= 0:
                    break
            left_out[number] += 1
            excess -= tokens(chunk, self._measure)
        count = self._write(contents, blocks, left_out)
        return Trimmed(kind="evidence", count=count, tokens=before - self.tokens)

    def answers(self, *, delegated: bool) -> list[_Place]:
        """What tools answered, or members to their leader."""
        names = {call.id: call.name for _, prompt in self._whole() for call in prompt.tool_calls}
        return [
            self._place(index, 0, len(prompt.content))
            for index, prompt in self._whole()
            if prompt.role == "tool" and (names.get(prompt.tool_call_id) == DELEGATE) == delegated
        ]

    def reports(self) -> list[_Place]:
        """What members reported, as others are shown it."""
        return [
            self._place(index, start, end)
            for index, prompt in self._whole()
            if prompt.role == "user" and not prompt.kind
            for start, end in marks.reports(prompt.content)
        ]

    def cut_longest(self, kind: str, places: Sequence[_Place]) -> Trimmed:
        """Cuts the longest of these texts until they are as long as the next, and so on."""
        before, count, excess = self.tokens, 0, self._excess
        places = [place for place in places if place.tokens > _FLOOR_TOKENS]
        if excess > 0 and places:
            level = max(level_of([place.tokens for place in places], excess), _FLOOR_TOKENS)
            # The last one first: what is cut moves only what comes after it in its message.
            for place in sorted(places, key=lambda p: (p.index, p.start), reverse=True):
                if place.tokens > level:
                    self._cut(place, level)
                    count += 1
        return Trimmed(kind=kind, count=count, tokens=before - self.tokens)

    def _whole(self) -> list[tuple[int, Prompt]]:
        return [(index, prompt) for index, prompt in enumerate(self.prompts) if prompt is not None]

    def _place(self, index: int, start: int, end: int) -> _Place:
        text = self._content(index)[start:end]
        return _Place(index=index, start=start, end=end, tokens=tokens(text, self._measure))

    def _content(self, index: int) -> str:
        prompt = self.prompts[index]
        return "" if prompt is None else prompt.content

    def _put(self, index: int, content: str) -> None:
        prompt = self.prompts[index]
        if prompt is not None:
            self.prompts[index] = changed = replace(prompt, content=content)
            self._sizes[index] = prompt_tokens(changed, self._measure)

    def _write(
        self,
        contents: dict[int, str],
        blocks: Sequence[tuple[int, marks.EvidenceBlock]],
        left_out: Sequence[int],
    ) -> int:
        """Writes the blocks without so many chunks each, where that makes them smaller; returns how many."""
        changed: dict[int, str] = {}
        written = 0
        for (index, block), count in reversed(list(zip(blocks, left_out, strict=True))):
            content = changed.get(index, contents[index])
            whole, rest = content[block.start : block.end], marks.evidence_without(block, count)
            # It says how many are missing, which may be longer than they were.
            if count and tokens(rest, self._measure) < tokens(whole, self._measure):
                changed[index] = content[: block.start] + rest + content[block.end :]
                written += count
        for index, content in changed.items():
            self._put(index, content)
        return written

    def _cut(self, place: _Place, limit: int) -> None:
        content = self._content(place.index)
        text = content[place.start : place.end]
        characters = int(len(text) * limit / place.tokens)
        while tokens(short := marks.cut(text, characters), self._measure) > limit and characters:
            characters = int(characters * _SHRINK)
        self._put(place.index, content[: place.start] + short + content[place.end :])


def level_of(sizes: Sequence[int], excess: int) -> int:
    """To what the largest must shrink so that all together lose the excess; 0 if they have not so much."""
    ordered = sorted(sizes, reverse=True)
    total = 0
    for count, size in enumerate(ordered, start=1):
        total += size
        level = (total - excess) // count
        if count == len(ordered) or level >= ordered[count]:
            return max(level, 0)
    return 0
