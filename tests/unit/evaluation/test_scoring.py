"""The scores of one run: by the local method, and with a judge."""

import math
from collections.abc import Callable

import pytest

from evaluation.core.judge import CALLS_PER_CLAIM, Judge, Memory
from evaluation.core.model import Scores
from evaluation.core.ports import Likelihood, Prompt
from evaluation.core.scoring import score
from servicekit.errors import Unavailable
from tests.support.evaluation_fakes import FakeJudge, embed, record

WARRANTY = "The warranty of the lamp is two years from the day of purchase. Batteries are not covered."
SHIPPING = "Parcels are sent on weekdays. Shipping to islands takes nine days."
ANSWER = "The warranty of the lamp is two years [1]. The moon is made of green cheese. Any questions?"


def judge(model: FakeJudge, *, calls: int = 40, memory: Memory | None = None) -> Judge:
    return Judge(model=model, memory=memory or Memory(most=100), max_calls=calls)


def verdicts(scores: Scores) -> list[str]:
    return [one.verdict for one in scores.sentences]


def truthful(user: str) -> float:
    """Says no to what the planted hallucination says."""
    return 0.1 if "three years" in user.rsplit("Claim:", maxsplit=1)[-1] else 0.9


async def test_without_a_judge_there_is_grounding_and_never_faithfulness() -> None:
    scores = await score(record(ANSWER, WARRANTY, SHIPPING), embed=embed, judge=None)
    assert (scores.outcome, scores.evaluator) == ("SCORED", "local")
    assert (scores.faithfulness, scores.answer_relevance, scores.agreement) == (None, None, None)
    assert scores.grounding is not None
    first, second, _ = scores.sentences
    assert first.grounding > 0.6
    assert second.grounding < 0.3
    # What is off the topic is found; whether the rest is true nobody has looked at.
    assert verdicts(scores) == ["UNCHECKED", "UNSUPPORTED", "NO_CLAIM"]


async def test_a_planted_hallucination_is_unsupported_although_its_words_are_there() -> None:
    answer = "The warranty of the lamp is three years from the day of purchase [1]."
    model = FakeJudge(says=truthful)
    scores = await score(record(answer, WARRANTY), embed=embed, judge=judge(model))
    assert verdicts(scores) == ["UNSUPPORTED"]
    assert scores.faithfulness == 0.0
    assert scores.grounding is not None
    assert scores.grounding > 0.5  # which is why it is not called faithfulness
    assert scores.agreement == 0.0
    right = await score(record("The warranty of the lamp is two years [1].", WARRANTY), embed=embed,
                        judge=judge(model))  # fmt: skip
    assert (verdicts(right), right.faithfulness, right.agreement) == (["SUPPORTED"], 1.0, 1.0)


async def test_what_is_off_the_topic_is_unsupported_without_asking() -> None:
    model = FakeJudge()
    scores = await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(model))
    assert verdicts(scores) == ["SUPPORTED", "UNSUPPORTED", "NO_CLAIM"]
    assert scores.faithfulness == 0.5
    assert [user for user in model.asked if "moon" in user.split("Claim:")[-1] and "Claim:" in user] == []


async def test_a_claim_is_compared_with_what_it_cites_and_else_with_everything() -> None:
    model = FakeJudge()
    answer = "Shipping to islands takes nine days [1]. Shipping to islands takes nine days."
    scores = await score(record(answer, WARRANTY, SHIPPING), embed=embed, judge=judge(model))
    cited, free = scores.sentences
    assert (cited.verdict, cited.evidence) == ("UNSUPPORTED", (1,))
    assert (free.verdict, free.evidence) == ("SUPPORTED", (2, 1))


async def test_a_number_that_no_chunk_has_is_as_if_nothing_was_cited() -> None:
    scores = await score(
        record("Shipping to islands takes nine days [7].", SHIPPING), embed=embed, judge=judge(FakeJudge())
    )
    assert verdicts(scores) == ["SUPPORTED"]


async def test_calls_are_bounded_and_what_is_left_says_so() -> None:
    claims = " ".join(f"The warranty of lamp {n} is two years." for n in range(6))
    model, calls = FakeJudge(), 4  # it is clear about all: a call for each
    scores = await score(record(claims, WARRANTY), embed=embed, judge=judge(model, calls=calls))
    assert len(model.asked) == calls
    assert sorted(verdicts(scores)) == ["SUPPORTED"] * 4 + ["UNCHECKED"] * 2
    assert scores.faithfulness == 1.0
    usage = scores.usage
    assert (usage.calls, usage.input_tokens, usage.cost_micros) == (calls, 100 * calls, 2 * calls)
    # No call was left for chunks: similarity, and not a mean of both.
    assert [one.judged for one in scores.chunks] == [False]


def likely(read: float, *, unread: float, opposite: float) -> Callable[[str, str], float]:
    """How likely a claim is with evidence and without, and its opposite."""

    def nats(user: str, text: str) -> float:
        return unread if "(empty)" in user else opposite if text == FakeJudge.opposite else read

    return nats


async def test_where_it_is_not_clear_likelihoods_decide_with_it_while_calls_are_left() -> None:
    model = FakeJudge(says=lambda _: 0.6, likely=likely(-20.0, unread=-40.0, opposite=-15.0))
    one = judge(model, calls=2 * CALLS_PER_CLAIM - 1)
    p_no = await one.supports("Two years.", "It is three years.")
    # The opposite is likelier by 5 nats, each worth 0.3: odds of 1.5, by e to the -1.5.
    assert p_no == pytest.approx(1 / (1 + math.exp(1.5) / 1.5))
    assert len(model.asked) == CALLS_PER_CLAIM
    # Not enough calls are left to compare, and then none at all.
    assert await one.supports("Two years.", "It is four years.") == 0.6
    for n in range(CALLS_PER_CLAIM - 2):
        assert await one.supports("Two years.", f"It is {n} years.") == 0.6
    assert await one.supports("Two years.", "It is nine years.") is None
    assert one.usage.calls == len(model.asked) == 2 * CALLS_PER_CLAIM - 1
    assert await one.supports("Two years.", "It is three years.") == pytest.approx(p_no)
    assert (len(model.asked), one.usage.cached) == (2 * CALLS_PER_CLAIM - 1, 2)


@pytest.mark.parametrize(
    ("read", "unread", "opposite", "odds"),
    [
        (-20.0, -40.0, -21.0, 0.3),  # likelier than its opposite: supported
        (-20.0, -40.0, -19.0, -0.3),  # the opposite is: contradicted
        (-20.0, -19.0, -40.0, -0.3),  # no likelier than it was anyway: the evidence says nothing of it
        (-20.0, -90.0, -90.0, 3.0),  # however much likelier, what was answered counts
        (-90.0, -20.0, -20.0, -3.0),
    ],
)
async def test_a_claim_has_to_be_likelier_than_its_opposite_and_than_without_evidence(
    read: float, unread: float, opposite: float, odds: float
) -> None:
    model = FakeJudge(says=lambda _: 0.5, likely=likely(read, unread=unread, opposite=opposite))
    p_yes = await judge(model).supports("e", "c")
    assert p_yes == pytest.approx(1 / (1 + math.exp(-odds)))


@pytest.mark.parametrize("opposite", ["", "c"])
async def test_without_an_opposite_the_answer_stays_as_it_was(opposite: str) -> None:
    model = FakeJudge(says=lambda _: 0.6, likely=lambda *_: -5.0, opposite=opposite)
    assert await judge(model).supports("e", "c") == pytest.approx(0.6)


async def test_a_model_without_likelihoods_costs_a_call_a_claim() -> None:
    model = FakeJudge(says=lambda _: 0.6)
    one = judge(model, calls=2)
    assert [await one.supports("e", claim) for claim in "cd"] == [0.6, 0.6]
    assert len(model.asked) == 2


async def test_what_makes_claims_surer_leaves_the_other_questions_their_calls() -> None:
    claims = " ".join(f"The warranty of lamp {n} is two years." for n in range(3))
    model = FakeJudge(says=lambda _: 0.6, likely=lambda *_: -5.0)
    # Three claims, the answer and a chunk need five calls; what is left is enough for one claim.
    scores = await score(record(claims, WARRANTY), embed=embed, judge=judge(model, calls=5 + 7))
    assert [one.judged for one in scores.chunks] == [True]
    assert scores.answer_relevance == 0.6
    assert verdicts(scores) == ["SUPPORTED"] * 3
    assert scores.usage.calls == len(model.asked) == 5 + 4


async def test_calls_for_likelihoods_that_turn_out_to_be_missing_are_left_for_others() -> None:
    class Finds(FakeJudge):
        has_likelihoods = True

        async def likelihood(self, prompt: Prompt, text: str) -> Likelihood:
            self.has_likelihoods = False
            return Likelihood(nats=None, input_tokens=100, output_tokens=0)

    one = judge(Finds(says=lambda _: 0.6), calls=CALLS_PER_CLAIM)
    for n in range(CALLS_PER_CLAIM - 1):  # one went to find out
        assert await one.supports("e", f"c{n}") == 0.6
    assert await one.supports("e", "c") is None
    assert one.usage.input_tokens == 100 * CALLS_PER_CLAIM


async def test_calls_for_an_opposite_that_was_not_written_are_left_for_others() -> None:
    model = FakeJudge(says=lambda _: 0.6, likely=lambda *_: -5.0, opposite="")
    one = judge(model, calls=CALLS_PER_CLAIM)
    assert [await one.supports("e", claim) for claim in "abcd"] == [pytest.approx(0.6)] * 3 + [None]
    assert len(model.asked) == CALLS_PER_CLAIM


async def test_a_judge_that_is_clear_is_asked_once() -> None:
    for p_yes in (0.999, 0.001):
        model = FakeJudge(says=lambda _, p_yes=p_yes: p_yes, likely=lambda *_: 0.0)  # type: ignore[misc]
        one = judge(model, calls=CALLS_PER_CLAIM)
        assert await one.supports("e", "c") == pytest.approx(p_yes)
        assert (len(model.asked), one.usage.calls) == (1, 1)


async def test_answers_are_remembered_by_model_and_text() -> None:
    memory, model = Memory(most=100), FakeJudge()
    first = await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(model, memory=memory))
    asked = len(model.asked)
    second = await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(model, memory=memory))
    assert len(model.asked) == asked
    assert (second.usage.calls, second.usage.cached) == (0, asked)
    assert second.faithfulness == first.faithfulness
    other = FakeJudge(fingerprint="other")
    await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(other, memory=memory))
    assert (len(model.asked), len(other.asked)) == (asked, asked)


def test_the_memory_is_bounded() -> None:
    memory = Memory(most=2)
    for key in (b"a", b"b"):
        memory.put(key, 0.5)
    assert memory.get(b"a") == 0.5
    memory.put(b"c", 0.5)
    assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"c")) == (0.5, None, 0.5)


async def test_an_irrelevant_index_shows_in_the_relevance_of_its_chunks() -> None:
    def says(user: str) -> float:
        return 0.9 if "Passage:" not in user or "warranty" in user.split("Passage:")[1] else 0.05

    good = await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(FakeJudge(says=says)))
    bad = await score(record(ANSWER, SHIPPING), embed=embed, judge=judge(FakeJudge(says=says)))
    assert good.retrieval_relevance is not None
    assert bad.retrieval_relevance is not None
    assert good.retrieval_relevance > 0.8
    assert bad.retrieval_relevance < 0.1
    local = await score(record(ANSWER, WARRANTY, SHIPPING), embed=embed, judge=None)
    first, second = local.chunks
    assert first.relevance > second.relevance


@pytest.mark.parametrize("answer", ["", "Hello! How are you?"])
async def test_nothing_to_score_is_not_a_score(answer: str) -> None:
    scores = await score(record(answer), embed=embed, judge=judge(FakeJudge()))
    assert scores.outcome == "NOTHING_TO_SCORE"
    assert (scores.faithfulness, scores.grounding, scores.retrieval_relevance) == (None, None, None)


async def test_claims_without_any_evidence_are_unsupported() -> None:
    scores = await score(
        record("The warranty of the lamp is two years."), embed=embed, judge=judge(FakeJudge())
    )
    assert (verdicts(scores), scores.faithfulness, scores.grounding) == (["UNSUPPORTED"], 0.0, 0.0)


async def test_a_judge_that_does_not_answer_is_an_error_and_no_score() -> None:
    model = FakeJudge(error=Unavailable("down", reason="MODEL_UNAVAILABLE"))
    with pytest.raises(Unavailable):
        await score(record(ANSWER, WARRANTY), embed=embed, judge=judge(model))
