"""How well the grade of evidence tells what answers a question from what does not.

    python bench/grades.py SCIFACT.json [--queries N] [--json FILE]

The file holds `docs` ([id, title, text]), `queries` ({id: text}) and `qrels`
({query: {doc: grade}}). Searches are BM25, so that no model is needed.
"""

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.guardrails import documents
from bench.questions import load
from orchestrator.core.grading import grade, keywords, rewritten
from orchestrator.core.model import Chunk

_TOP_K = 4


class Words:
    """BM25 over texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        counts = [Counter(keywords(text)) for text in texts]
        self._lengths = [sum(count.values()) for count in counts]
        self._mean = sum(self._lengths) / len(texts)
        self._found: dict[str, list[tuple[int, int]]] = {}
        for index, count in enumerate(counts):
            for word, times in count.items():
                self._found.setdefault(word, []).append((index, times))

    def top(self, query: str) -> list[int]:
        """The best, best first."""
        scores: Counter[int] = Counter()
        for word in set(keywords(query)):
            rows = self._found.get(word, [])
            weight = math.log(1 + (len(self.texts) - len(rows) + 0.5) / (len(rows) + 0.5))
            for index, times in rows:
                length = 0.25 + 0.75 * self._lengths[index] / self._mean
                scores[index] += weight * times * 2.2 / (times + 1.2 * length)  # type: ignore[assignment]
        return [index for index, _ in scores.most_common(_TOP_K)]

    def chunks(self, query: str) -> list[Chunk]:
        """The best as a search returns them."""
        return [
            Chunk(id=str(i), document="", title="", text=self.texts[i], score=0.0) for i in self.top(query)
        ]


def weak(words: Words, queries: Sequence[str]) -> dict[str, Any]:
    """How many queries find nothing that fits."""
    found = sum(grade(query, words.chunks(query)) != "STRONG" for query in queries)
    return {"queries": len(queries), "weak": found, "percent": round(100 * found / max(1, len(queries)), 1)}


def corrected(words: Words, right: Sequence[tuple[str, set[int]]]) -> dict[str, Any]:
    """What a second search brings to queries of one word of the question."""
    random.seed(7)
    out: Counter[str] = Counter(queries=len(right))
    for question, wanted in right:
        query = f"find information about {random.choice(list(keywords(question)))} in relation to xyz"
        out["right"] += bool(wanted & set(words.top(query)))
        if grade(query, words.chunks(query)) == "STRONG":
            continue
        out["weak"] += 1
        again = rewritten(query, question)
        out["weak_and_right"] += bool(wanted & set(words.top(query)))
        out["right_after_correction"] += bool(wanted & set(words.top(again)))
    return dict(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="How well evidence is graded.")
    parser.add_argument("scifact", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    data = json.loads(asked.scifact.read_text(encoding="utf-8"))
    position = {doc[0]: index for index, doc in enumerate(data["docs"])}
    science = Words([f"{title}. {text}" for _, title, text in data["docs"]])
    ours = Words(documents())
    claims = list(data["queries"].items())[: asked.queries]
    right = [(text, {position[doc] for doc in data["qrels"][key] if doc in position}) for key, text in claims]
    hits = [text for text, wanted in right if wanted & set(science.top(text))]
    misses = [text for text, wanted in right if text not in set(hits)]
    questions = [question.ask for question in load()]
    out = {
        "our questions, our documents": weak(ours, questions),
        "claims, abstracts: answered": weak(science, hits),
        "claims, abstracts: not answered": weak(science, misses),
        "claims, our documents": weak(ours, [text for text, _ in right]),
        "our questions, abstracts": weak(science, questions),
        "claims asked for by one word": corrected(science, right),
    }
    for name, figures in out.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    if asked.json is not None:
        asked.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
