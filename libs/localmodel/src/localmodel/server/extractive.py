"""The answerer without a model: quotes the sentences that share most of the question's rarest words."""

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from localmodel.server import conversation
from localmodel.server.conversation import CHOOSE_TOOL, DELEGATE_TOOL, SEARCH_TOOL, TASKS_TOOL, Chunk
from localmodel.server.engine import Event, Finished, TextDelta, ToolDecision, Usage
from localmodel.server.errors import invalid
from localmodel.server.wire import ChatRequest, NamedChoice

PREFACE = "This is an extractive answer: no chat model is available, so it quotes the documents."
MAX_SENTENCES = 3
MAX_SENTENCE_CHARS = 400
MAX_SUMMARY_LINES = 24
# Sentences that score below this share of the best one say something else.
KEEP_SHARE = 0.45

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9`])|\n\s*\n|\n(?=\s*(?:[-*•|#]|\d+\.)\s)")
_WORD = re.compile(r"[a-z0-9]+(?:[_'.-][a-z0-9]+)*")
_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from had has have how i if in "
        "into is it its me my no not of on or our shall should so that the their them then there "
        "these they this those to us was we were what when where which who whom whose why will with "
        "would you your please tell about explain describe give write answer question find document "
        "documents user ",
    )
)
_SUFFIXES = ("ations", "ation", "ings", "ing", "ied", "ies", "ed", "es", "s", "ly", "e")
_STEM_MIN_CHARS = 3
_MARK = re.compile(r"\[\d+\]")
_TASK_DONE = ") is done: "  # what the orchestrator writes before a task's result


class ExtractiveEngine:
    """Implements `Engine`; needs no weights and no child process."""

    def ready(self) -> None:
        """Always."""

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yields one tool decision or the quoted answer, word by word."""
        if request.prompt_logprobs is not None:
            raise invalid(
                "prompt_logprobs: the extractive model has no probabilities; use one with weights",
                param="prompt_logprobs",
            )
        decision = _decide(request)
        prompt = sum(_tokens(message.text) for message in request.messages)
        if decision is not None:
            yield decision
            spent = _tokens(decision.arguments_json())
            yield Finished(reason="tool_calls", usage=Usage(prompt_tokens=prompt, completion_tokens=spent))
            return
        transcript = conversation.transcript(request.messages)
        text = _reply(request) if transcript is None else summarize(*transcript)
        for piece in re.findall(r"\s*\S+", text):
            yield TextDelta(text=piece)
        yield Finished(reason="stop", usage=Usage(prompt_tokens=prompt, completion_tokens=_tokens(text)))


def quote(question: str, chunks: Sequence[Chunk]) -> list[tuple[str, int]]:
    """Returns the best sentences with their chunk's number, in the order of the chunks."""
    sentences = [
        (sentence, chunk.number, position)
        for position, chunk in enumerate(chunks)
        for sentence in _sentences(chunk.text)
    ]
    if not sentences:
        return []
    bags = [set(stems(sentence)) for sentence, _, _ in sentences]
    frequency = Counter(stem for bag in bags for stem in bag)
    wanted = set(stems(question))

    def score(index: int) -> float:
        hits = bags[index] & wanted
        rarity = sum(math.log(1 + len(bags) / frequency[stem]) for stem in hits)
        length = 1 + math.log(1 + len(bags[index]))
        # The search ranked the chunks; between equals its order decides.
        return rarity / length * (1 - 0.02 * min(sentences[index][2], 10))

    scores = [score(index) for index in range(len(sentences))]
    best = max(scores)
    if best == 0:  # no word in common: what the search ranked first is the best guess
        return [(sentences[0][0], sentences[0][1])]
    ranked = sorted(range(len(sentences)), key=lambda index: -scores[index])
    kept = [index for index in ranked[:MAX_SENTENCES] if scores[index] >= KEEP_SHARE * best]
    return [(sentences[index][0], sentences[index][1]) for index in sorted(kept)]


def _decide(request: ChatRequest) -> ToolDecision | None:
    if not request.tools or request.tool_choice == "none":
        return None
    names = {tool.function.name for tool in request.tools}
    if isinstance(request.tool_choice, NamedChoice):
        names &= {request.tool_choice.function.name}
    question = conversation.question(request.messages)
    done = conversation.results(request.messages)
    for function in (tool.function for tool in request.tools if tool.function.name in names):
        if function.name == CHOOSE_TOOL:
            chosen = _fitting(request, question, _enum(function.parameters))
            return ToolDecision(name=CHOOSE_TOOL, arguments={"member": chosen})
        if function.name == TASKS_TOOL and not any(result.name == TASKS_TOOL for result in done):
            task = function.parameters.get("properties", {}).get("tasks", {}).get("items", {})
            return ToolDecision(name=TASKS_TOOL, arguments={"tasks": _chain(question, _enum(task))})
    members = conversation.members(request.tools)
    searched = any(result.name == SEARCH_TOOL for result in done)
    if DELEGATE_TOOL in names and members:
        asked = {result.arguments.get("member") for result in done if result.name == DELEGATE_TOOL}
        for member in dict.fromkeys((members[0], members[-1])):
            if member not in asked:
                return ToolDecision(name=DELEGATE_TOOL, arguments={"member": member, "task": question})
    elif SEARCH_TOOL in names and not searched and conversation.evidence(request.messages) is None:
        return ToolDecision(name=SEARCH_TOOL, arguments={"query": question})
    return None


def _enum(schema: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in schema.get("properties", {}).get("member", {}).get("enum", [])]


def _fitting(request: ChatRequest, question: str, members: Sequence[str]) -> str:
    """The member whose line in the system prompt shares most words with the question; else the first."""
    system = "\n".join(message.text for message in request.messages if message.role == "system")
    wanted = set(stems(question))

    def shared(member: str) -> int:
        line = re.search(rf"^- {re.escape(member)}: (.*)$", system, re.MULTILINE)
        return len(wanted & set(stems(line[1]))) if line else 0

    return max(members, key=shared)


def _chain(question: str, members: Sequence[str]) -> list[dict[str, object]]:
    """The first member's task, and the last one's that needs it."""
    tasks: list[dict[str, object]] = [{"member": members[0], "text": question}]
    if len(members) > 1:
        tasks.append({"member": members[-1], "text": question, "depends_on": [1]})
    return tasks


def summarize(before: str, said: str) -> str:
    """Returns the summary so far and the first sentence of each message, the last ones if there are many."""
    lines = [line for line in before.splitlines() if line.strip()]
    for line in said.replace(PREFACE, "").splitlines():
        if line.startswith(("user: ", "assistant: ")):
            speaker, _, text = line.partition(": ")
            first = next(iter(_sentences(text)), "")
            lines.append(f"{speaker}: {first}".strip())
        elif line.strip() and lines and lines[-1].endswith(":"):
            lines[-1] += f" {next(iter(_sentences(line)), '')}"  # the answer began on the next line
    return "\n".join(lines[-MAX_SUMMARY_LINES:])


def _reply(request: ChatRequest) -> str:
    done = conversation.results(request.messages)
    delegated = [result.text for result in done if result.name == DELEGATE_TOOL]
    if delegated:
        return delegated[-1]
    worked = [result.text for result in done if result.name == TASKS_TOOL]
    if worked:
        return worked[-1].rpartition(_TASK_DONE)[2]
    question = conversation.question(request.messages)
    turn = conversation.current_turn(request.messages)
    chunks = conversation.evidence(turn)
    if chunks is None:
        chunks = conversation.evidence(request.messages)
    quotes = quote(question, chunks or [])
    if quotes:
        return f"{PREFACE}\n\n" + "\n\n".join(f"{sentence} [{number}]" for sentence, number in quotes)
    reports = conversation.reports(request.messages)
    if chunks is None and reports:
        # Nothing to quote: what a member quoted, or else what the last one said.
        return next((report for report in reports if _MARK.search(report)), reports[-1])
    searches = [result.text.strip() for result in done if result.name == SEARCH_TOOL]
    if chunks is None and any(searches):
        # Not evidence and not empty: a failed search must not read like an empty one.
        return f"{PREFACE}\n\nThe search gave no evidence to quote. It reported: {searches[-1]}"
    return (
        f"{PREFACE}\n\nI found nothing about this in the documents. "
        "Please add documents that cover it (agentteams ingest PATH) and ask again."
    )


def _sentences(text: str) -> list[str]:
    parts = (re.sub(r"\s+", " ", part).strip(" #*-•|") for part in _SENTENCE_END.split(text))
    return [part[:MAX_SENTENCE_CHARS] for part in parts if len(part) > 2]


def stems(text: str) -> list[str]:
    """Returns the words that carry meaning, without their endings."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOPWORDS]


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _STEM_MIN_CHARS:
            return word.removesuffix(suffix)
    return word


def _tokens(text: str) -> int:
    return len(text.split())
