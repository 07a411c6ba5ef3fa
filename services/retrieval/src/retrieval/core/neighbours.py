"""Chunks before and after those that were found. Pure."""

from collections.abc import Iterable, Sequence

from retrieval.core.model import Hit

Wanted = dict[str, dict[int, int]]  # document -> ordinal -> position of the hit that it goes to


def wanted(hits: Sequence[Hit], distance: int) -> Wanted:
    """Which chunks stand at most `distance` from a hit, each for one hit only.

    A hit is nobody's neighbour; what stands between two hits goes to the nearer
    one, and to the better of two that are as near.
    """
    found = {(hit.document, hit.ordinal) for hit in hits}
    owners: Wanted = {}
    for step in range(1, distance + 1):
        for position, hit in enumerate(hits):
            for ordinal in (hit.ordinal - step, hit.ordinal + step):
                if ordinal >= 0 and (hit.document, ordinal) not in found:
                    owners.setdefault(hit.document, {}).setdefault(ordinal, position)
    return owners


def given_out(owners: Wanted, chunks: Iterable[Hit]) -> dict[int, tuple[Hit, ...]]:
    """Chunks by the position of their hit, each once and in the document's order."""
    by_position: dict[int, dict[int, Hit]] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.ordinal, chunk.id)):
        position = owners.get(chunk.document, {}).get(chunk.ordinal)
        if position is not None:
            by_position.setdefault(position, {}).setdefault(chunk.ordinal, chunk)
    return {position: tuple(neighbours.values()) for position, neighbours in by_position.items()}
