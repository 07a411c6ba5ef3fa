"""How much claims resemble evidence: similarity of vectors and shared words.

It finds what is off the topic. It does not notice that a claim says the opposite of the evidence, so
it is never called faithfulness.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.core.claims import texts, words
from evaluation.core.model import Chunk
from evaluation.core.ports import Embed, Vectors

MAX_EVIDENCE_SENTENCES = 400  # of one run
GROUNDED = 0.5
# Below both, claim and evidence are about different things: no judge is asked.
OFF_TOPIC_SIMILARITY, OFF_TOPIC_OVERLAP = 0.25, 0.25
_SHORT = 3  # letters: shorter words are in every sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSentence:
    """A sentence of a chunk."""

    number: int
    text: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closest:
    """How near the evidence comes to a claim.

    Attributes:
        score: The mean of both for the closest sentence, 0 to 1.
        similarity: The largest cosine.
        overlap: The largest share of the claim's words.
        ranked: Indexes of the sentences that were looked at, closest first.
    """

    score: float
    similarity: float
    overlap: float
    ranked: tuple[int, ...]

    @property
    def is_off_topic(self) -> bool:
        """Whether the evidence is about something else."""
        return self.similarity < OFF_TOPIC_SIMILARITY and self.overlap < OFF_TOPIC_OVERLAP


NOTHING = Closest(score=0.0, similarity=0.0, overlap=0.0, ranked=())


class Evidence:
    """The evidence of a run, by sentences."""

    def __init__(self, sentences: Sequence[EvidenceSentence], vectors: Vectors) -> None:
        self.sentences = sentences
        self._vectors = vectors

    @classmethod
    async def of(cls, chunks: Mapping[int, Chunk], embed: Embed) -> "Evidence":
        """Of all chunks of a run, in their order. Raises ServiceError."""
        sentences = [
            EvidenceSentence(number=number, text=text, words=content_words(text))
            for number, chunk in sorted(chunks.items())
            for text in texts(chunk.text)
        ][:MAX_EVIDENCE_SENTENCES]
        vectors = await embed([s.text for s in sentences]) if sentences else np.zeros((0, 1), np.float32)
        return cls(sentences, vectors)

    def closest(self, claim: str, vector: Vectors, numbers: Sequence[int]) -> Closest:
        """To a claim, among the chunks of these numbers."""
        allowed = set(numbers)
        indexes = [i for i, sentence in enumerate(self.sentences) if sentence.number in allowed]
        if not indexes:
            return NOTHING
        said = content_words(claim)
        similar = np.clip(self._vectors[indexes] @ vector, 0.0, 1.0)
        overlap = np.array(
            [len(said & self.sentences[i].words) / len(said) if said else 0.0 for i in indexes]
        )
        both = (similar + overlap) / 2
        order = np.argsort(-both, kind="stable")
        return Closest(
            score=float(both[order[0]]),
            similarity=float(similar.max()),
            overlap=float(overlap.max()),
            ranked=tuple(indexes[i] for i in order),
        )

    def excerpt(self, closest: Closest, *, most_chars: int) -> str:
        """The sentences nearest to the claim with their neighbours, in the evidence's order."""
        chosen: set[int] = set()
        left = most_chars
        for index in closest.ranked:
            for near in (index, index - 1, index + 1):
                if near in chosen or near not in closest.ranked:
                    continue
                left -= len(self.sentences[near].text)
                if left < 0 and chosen:
                    return self._joined(chosen)
                chosen.add(near)
        return self._joined(chosen)

    def _joined(self, chosen: set[int]) -> str:
        lines: list[str] = []
        before = -2
        for index in sorted(chosen):
            text = self.sentences[index].text
            if index == before + 1 and self.sentences[before].number == self.sentences[index].number:
                lines[-1] += f" {text}"
            else:
                lines.append(text)
            before = index
        return "\n".join(lines)


def content_words(text: str) -> frozenset[str]:
    """Words that say something: long ones, and all numbers."""
    return frozenset(w for w in words(text) if len(w) > _SHORT or any(c.isdigit() for c in w))
