"""What a judge model is asked about claims: versioned prompts with worked examples."""

from evaluation.core.ports import Question

PROMPTS = "3"
"""Version of the prompts below and of what is made of their answers: change it with any of them."""

_SYSTEM = "You check claims against passages."
_CLAIM = (
    "Passage:\n{evidence}\n\nClaim: {claim}\n\n"
    "According to the passage, is the claim true or false? Answer true or false."
)
_NOTHING = "(empty)"
_WORDS = ("true", "false")
# What small models get wrong: the opposite direction, negations, numbers, swapped subjects, what follows from
# the loss of something.
_EXAMPLES = (
    (
        "In a randomised trial of 412 adults with hypertension, a daily glass of beetroot juice lowered "
        "systolic pressure by 6 mmHg compared with placebo.",
        "Beetroot juice reduces blood pressure in people with hypertension.",
        True,
    ),
    (
        "Blocking the channel with the toxin abolished the response of neurons to cold, whereas heat "
        "responses were unchanged.",
        "The channel is needed for neurons to sense cold.",
        True,
    ),
    (
        "Mice that lacked the receptor showed a marked decrease in bone density.",
        "Loss of the receptor increases bone density in mice.",
        False,
    ),
    (
        "Among 2,310 pregnant women, those given the supplement had preterm births as often as those given "
        "placebo (8.1% versus 8.3%).",
        "The supplement lowers the risk of preterm birth.",
        False,
    ),
    (
        "Vitamin K supplements had no effect on the number of fractures.",
        "Vitamin K supplements prevent fractures.",
        False,
    ),
    (
        "The kinase phosphorylates the transporter, which is then kept in the cytoplasm and cannot reach the "
        "membrane.",
        "Phosphorylation by the kinase brings the transporter to the membrane.",
        False,
    ),
    (
        "When the gene was deleted, T cells no longer released the cytokine.",
        "T cells need the gene to release the cytokine.",
        True,
    ),
    (
        "Patients with the variant were three times as likely to relapse within two years.",
        "The variant is associated with a worse outcome.",
        True,
    ),
    (
        "Sleep apnoea was found in 31% of lorry drivers and in 12% of office workers.",
        "Office workers have sleep apnoea more often than lorry drivers.",
        False,
    ),
    (
        "Screening found 40 tumours in 1,000 participants, most of them in people under 50.",
        "Most tumours found by screening are in people over 50.",
        False,
    ),
    (
        "Of all measures, only the number of steps a day failed to predict the outcome.",
        "The number of steps a day is not associated with the outcome.",
        True,
    ),
    (
        "Stem cells cultured on stiff gels became bone cells, those on soft gels became fat cells.",
        "The stiffness of the surface influences the fate of stem cells.",
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
        (_CLAIM.format(evidence=passage, claim=said), verdict) for passage, said, verdict in _EXAMPLES
    )
    user = _CLAIM.format(evidence=evidence, claim=claim)
    return Question(system=_SYSTEM, user=user, words=_WORDS, examples=examples)


def believed(claim: str) -> Question:
    """The same with nothing as evidence: what the model believes of the claim by itself."""
    return supported(_NOTHING, claim)


def relevant(query: str, passage: str) -> Question:
    """Whether the passage helps to answer the query."""
    return Question(system=_RELEVANT_SYSTEM, user=_RELEVANT.format(query=query, passage=passage))


def answers(question: str, answer: str) -> Question:
    """Whether the answer is about the question."""
    return Question(system=_ANSWERS_SYSTEM, user=_ANSWERS.format(question=question, answer=answer))
