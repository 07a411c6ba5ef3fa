"""Asks the questions of questions.yaml and checks that the answers cite the right chunks.

    agentteams up            # in another terminal, with the quickstart's documents
    python bench/questions.py [--json FILE] [--base-url URL] [--team TEAM] [--questions N]

Exits with 1 if fewer than nine in ten answers cite a chunk that holds the answer.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import openai
import yaml

QUESTIONS = Path(__file__).resolve().parent / "questions.yaml"
ENOUGH = 0.9
_TIMEOUT_S = 300.0  # a small model on two cores takes half a minute
_WIDTH = 74


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and what a right chunk says."""

    ask: str
    chunk: re.Pattern[str]

    def is_answered_by(self, text: str) -> bool:
        """Whether the text holds the answer."""
        return self.chunk.search(" ".join(text.split())) is not None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one question."""

    question: str
    right: bool
    seconds: float
    cited: Sequence[str]
    answer: str
    error: str = ""


def load(path: Path = QUESTIONS) -> list[Question]:
    """Reads the questions. Raises: ValueError names the entry that is wrong."""
    questions = []
    for index, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))["questions"]):
        if not isinstance(entry, dict) or set(entry) != {"ask", "chunk"}:
            raise ValueError(f"{path}: questions[{index}] must have exactly the fields ask and chunk")
        try:
            pattern = re.compile(entry["chunk"], re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{path}: questions[{index}].chunk is no regular expression: {error}") from error
        questions.append(Question(ask=entry["ask"], chunk=pattern))
    return questions


def ask(client: openai.OpenAI, team: str, question: Question) -> Result:
    """Asks one question."""
    started = time.perf_counter()
    try:
        answer = client.chat.completions.create(
            model=team, messages=[{"role": "user", "content": question.ask}]
        )
    except openai.APIError as error:
        seconds = time.perf_counter() - started
        return Result(
            question=question.ask, right=False, seconds=seconds, cited=[], answer="", error=error.message
        )
    citations = (answer.model_extra or {})["agentteams"]["citations"]
    return Result(
        question=question.ask,
        right=any(question.is_answered_by(citation["text"]) for citation in citations),
        seconds=time.perf_counter() - started,
        cited=[f"[{c['number']}] {c['document_title']} ({c['origin']})" for c in citations],
        answer=answer.choices[0].message.content or "",
    )


def main() -> int:
    """Asks them all, prints the table, returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--team", default="docs-team", help="or one of examples/quickstart-modes")
    parser.add_argument("--questions", type=int, default=0, metavar="N", help="only the first N; 0: all")
    arguments = parser.parse_args()
    questions = load()[: arguments.questions or None]
    results = []
    print(f"{'question':<{_WIDTH}}  right  seconds  cited")
    with openai.OpenAI(
        base_url=arguments.base_url, api_key="none", max_retries=0, timeout=_TIMEOUT_S
    ) as client:
        for question in questions:
            result = ask(client, arguments.team, question)
            results.append(result)
            asked = result.question if len(result.question) <= _WIDTH else f"{result.question[: _WIDTH - 1]}…"
            said = "yes" if result.right else "NO"
            shown = result.error or ", ".join(result.cited) or "nothing"
            print(f"{asked:<{_WIDTH}}  {said:<5}  {result.seconds:>7.1f}  {shown}", flush=True)
    right = sum(result.right for result in results)
    print(f"\n{right} of {len(results)} answers cite a chunk that holds the answer")
    if arguments.json is not None:
        found = {
            "bench": "questions",
            "asked": len(results),
            "right": right,
            "seconds": sum(result.seconds for result in results),
            "results": [asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if right >= ENOUGH * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
