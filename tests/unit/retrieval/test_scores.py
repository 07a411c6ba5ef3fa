"""Scores of ranked lists, compared with trec_eval itself."""

import random

import pytest
import pytrec_eval

from retrieval.core.scores import ndcg, recall, reciprocal_rank

MEASURES = ("ndcg_cut_10", "recall_100", "recall_10", "recip_rank")


def test_scores_are_those_of_trec_eval() -> None:
    chance = random.Random(1)
    pool = [f"d{number}" for number in range(150)]
    for _ in range(200):
        grades = {document: chance.randint(1, 10) for document in chance.sample(pool, chance.randint(1, 30))}
        ranked = chance.sample(pool, chance.randint(0, 120))
        run = {document: float(-rank) for rank, document in enumerate(ranked)}
        first = {document: score for document, score in run.items() if score > -10}
        judge = pytrec_eval.RelevanceEvaluator({"q": grades}, set(MEASURES))
        theirs = judge.evaluate({"q": run}).get("q", dict.fromkeys(MEASURES, 0.0))
        # recip_rank has no depth: it gets the first ten only.
        theirs["recip_rank"] = judge.evaluate({"q": first}).get("q", {"recip_rank": 0.0})["recip_rank"]
        ours = {
            "ndcg_cut_10": ndcg(ranked, grades, depth=10),
            "recall_100": recall(ranked, grades, depth=100),
            "recall_10": recall(ranked, grades, depth=10),
            "recip_rank": reciprocal_rank(ranked, grades, depth=10),
        }
        assert ours == pytest.approx({measure: theirs[measure] for measure in MEASURES})


def test_nothing_found_is_zero() -> None:
    assert ndcg([], {"a": 1}, depth=10) == recall([], {"a"}, depth=10) == 0
    assert reciprocal_rank(["b"], {"a"}, depth=10) == 0
