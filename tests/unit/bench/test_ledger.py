"""What the evidence ledger saves, as the benchmark measures it."""

import pytest

from bench.ledger import LEAST_SAVED, OWN, Documents, Vectors, measure
from tests.support.orchestrator_fakes import Bench

pytestmark = pytest.mark.looptime


async def test_four_members_with_related_questions_search_less_than_half_as_often() -> None:
    bench = Bench()
    bench.knowledge = Documents()  # type: ignore[assignment]
    bench.embedder = Vectors()  # type: ignore[assignment]
    on, off = [await measure(bench, list(OWN), policy, together=True) for policy in ("Semantic", "Never")]
    assert (off.searches, off.saved) == (8, 0)
    assert on.searches + on.saved == off.searches
    assert on.saved >= LEAST_SAVED * off.searches
    assert on.tokens == off.tokens
