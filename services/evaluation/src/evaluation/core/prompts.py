"""What a judge model is asked about claims: versioned prompts with worked examples."""

from evaluation.core.ports import Prompt, Question

PROMPTS = "4"
"""Version of the prompts below and of what is made of their answers: change it with any of them."""

_SYSTEM = "You check claims against passages."
_CLAIM = (
    "Passage:\n{evidence}\n\nClaim: {claim}\n\n"
    "According to the passage, is the claim true or false? Answer true or false."
)
_WORDS = ("true", "false")
NOTHING = "(empty)"
"""Evidence that says nothing."""
_OPPOSITE_SYSTEM = "You rewrite a claim so that it says the opposite. Change as few words as possible."
_CONCLUSION_SYSTEM = "You state what passages say."
_CONCLUSION = "Passage:\n{evidence}\n\nState a conclusion of the passage in one sentence."
# What small models get wrong: the opposite direction, negations, numbers, swapped subjects, what follows from
# the loss of something. Each: a passage, a claim, its opposite, and whether it is the claim that is true.
_EXAMPLES = (
    (
        "In a randomised trial of 412 adults with hypertension, a daily glass of beetroot juice lowered "
        "systolic pressure by 6 mmHg compared with placebo.",
        "Beetroot juice reduces blood pressure in people with hypertension.",
        "Beetroot juice does not reduce blood pressure in people with hypertension.",
        True,
    ),
    (
        "Blocking the channel with the toxin abolished the response of neurons to cold, whereas heat "
        "responses were unchanged.",
        "The channel is needed for neurons to sense cold.",
        "The channel is not needed for neurons to sense cold.",
        True,
    ),
    (
        "Mice that lacked the receptor showed a marked decrease in bone density.",
        "Loss of the receptor increases bone density in mice.",
        "Loss of the receptor decreases bone density in mice.",
        False,
    ),
    (
        "Among 2,310 pregnant women, those given the supplement had preterm births as often as those given "
        "placebo (8.1% versus 8.3%).",
        "The supplement lowers the risk of preterm birth.",
        "The supplement does not lower the risk of preterm birth.",
        False,
    ),
    (
        "Vitamin K supplements had no effect on the number of fractures.",
        "Vitamin K supplements prevent fractures.",
        "Vitamin K supplements do not prevent fractures.",
        False,
    ),
    (
        "The kinase phosphorylates the transporter, which is then kept in the cytoplasm and cannot reach the "
        "membrane.",
        "Phosphorylation by the kinase brings the transporter to the membrane.",
        "Phosphorylation by the kinase keeps the transporter away from the membrane.",
        False,
    ),
    (
        "When the gene was deleted, T cells no longer released the cytokine.",
        "T cells need the gene to release the cytokine.",
        "T cells release the cytokine without the gene.",
        True,
    ),
    (
        "Patients with the variant were three times as likely to relapse within two years.",
        "The variant is associated with a worse outcome.",
        "The variant is associated with a better outcome.",
        True,
    ),
    (
        "Sleep apnoea was found in 31% of lorry drivers and in 12% of office workers.",
        "Office workers have sleep apnoea more often than lorry drivers.",
        "Office workers have sleep apnoea less often than lorry drivers.",
        False,
    ),
    (
        "Screening found 40 tumours in 1,000 participants, most of them in people under 50.",
        "Most tumours found by screening are in people over 50.",
        "Most tumours found by screening are in people under 50.",
        False,
    ),
    (
        "Of all measures, only the number of steps a day failed to predict the outcome.",
        "The number of steps a day is not associated with the outcome.",
        "The number of steps a day is associated with the outcome.",
        True,
    ),
    (
        "Stem cells cultured on stiff gels became bone cells, those on soft gels became fat cells.",
        "The stiffness of the surface influences the fate of stem cells.",
        "The stiffness of the surface has no influence on the fate of stem cells.",
        True,
    ),
)
_RELEVANT_SYSTEM = "You judge search results. Answer with one word: yes or no."
_RELEVANT = (
    "Question: {query}\n\nPassage:\n{passage}\n\nDoes the passage help to answer the question, yes or no?"
)
_ANSWERS_SYSTEM = "You judge answers by their topic, not by their truth. Answer with one word: yes or no."
_ANSWERS = "Question: {question}\n\nAnswer:\n{answer}\n\nDoes the answer address the question, yes or no?"


def supported(evidence: str, claim: str) -> Question:
    """Whether the evidence supports the claim. The examples come first, so that prompt caches find them."""
    examples = tuple(
        (_CLAIM.format(evidence=passage, claim=said), verdict) for passage, said, _, verdict in _EXAMPLES
    )
    user = _CLAIM.format(evidence=evidence, claim=claim)
    return Question(system=_SYSTEM, user=user, words=_WORDS, examples=examples)


def opposite(claim: str) -> Prompt:
    """What says the opposite of the claim."""
    examples = tuple((said, contrary) for _, said, contrary, _ in _EXAMPLES)
    return Prompt(system=_OPPOSITE_SYSTEM, user=claim, examples=examples)


def conclusion(evidence: str) -> Prompt:
    """What the evidence says, in a sentence like a claim."""
    examples = tuple(
        (_CONCLUSION.format(evidence=passage), said if verdict else contrary)
        for passage, said, contrary, verdict in _EXAMPLES
    )
    return Prompt(system=_CONCLUSION_SYSTEM, user=_CONCLUSION.format(evidence=evidence), examples=examples)


def relevant(query: str, passage: str) -> Question:
    """Whether the passage helps to answer the query."""
    return Question(system=_RELEVANT_SYSTEM, user=_RELEVANT.format(query=query, passage=passage))


def answers(question: str, answer: str) -> Question:
    """Whether the answer is about the question."""
    return Question(system=_ANSWERS_SYSTEM, user=_ANSWERS.format(question=question, answer=answer))
