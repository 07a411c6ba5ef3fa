"""The scenes of examples/workflow: one for each kind of step."""

from collections.abc import Mapping, Sequence

from orchestrator.core.model import RunInput
from tests.support.golden import Scene
from tests.support.model_script import ChatRequest, Reply

DOCUMENTS = {"terms": "The warranty lasts two years.", "faq": "Batteries are excluded."}
QUESTION = "How long is the warranty?"


def answers(replies: Mapping[str, str]) -> "Answers":
    """A model that answers by what is in the request; the first that fits counts."""
    return Answers(replies)


class Answers:
    """A script of texts in requests with what is answered to them."""

    def __init__(self, replies: Mapping[str, str]) -> None:
        self._replies = replies

    def __call__(self, request: ChatRequest) -> Reply:
        """The reply."""
        asked = f"{request.messages[0]['content']}\n{request.last_user_text}"
        for part, reply in self._replies.items():
            if part in asked:
                return Reply(reply)
        raise AssertionError(f"nobody expected this request: {asked}")


def _scene(
    name: str,
    replies: Mapping[str, str],
    *,
    question: str = QUESTION,
    documents: Mapping[str, str] | None = None,
    people: Sequence[RunInput] = (),
) -> Scene:
    return Scene(
        name=f"workflow_{name}",
        manifests="workflow",
        team=name,
        question=question,
        script=answers(replies),
        documents=documents or {},
        people=people,
    )


SCENES = [
    _scene(
        "approval",
        {
            "Draft a reply.": "Dear Ada, no.",
            "final form: Dear Ada, no. (agreed by ada)": "Dear Ada, no. Yours, Ben",
        },
        question="May I?",
        people=[RunInput(call_id="@agree", approved=True, reason="go on", user="ada")],
    ),
    _scene(
        "steps",
        {
            "List the facts": "Two years [1]. No batteries [2].",
            "from these facts: Two years [1]. No batteries [2].": "It lasts two years [1].",
        },
        documents=DOCUMENTS,
    ),
    _scene(
        "parallel",
        {
            "what speaks for it": "It is cheap.",
            "what speaks against it": "It is slow.",
            '{"against": "It is slow.", "for": "It is cheap."}': "Do it.",
        },
        question="Shall we buy it?",
    ),
    _scene(
        "condition",
        {"List the facts": "Two years [1].", "Write the answer.": "Two years [1]."},
        documents=DOCUMENTS,
    ),
    _scene(
        "loop",
        {
            "Draft 1.": "A text.",
            "Is this good? A text.": "Too short.",
            "Draft 2. Faults of the last one: Too short.": "A longer text.",
            "Is this good? A longer text.": "OK, good.",
            "Correct the spelling of: A longer text.": "A longer text!",
        },
        question="Write a text.",
    ),
    _scene(
        "router",
        {
            "Is the question about": '```json\n{"topic": "billing"}\n```',
            "Knows the bills": "It costs 3 EUR.",
        },
        question="What does it cost?",
    ),
    _scene(
        "nested",
        {
            "Into German: Good day": "Gutn Tag",
            "Into French: Good day": "Bonjur",
            "Correct this: Gutn Tag": "Guten Tag",
            "Correct this: Bonjur": "Bonjour",
        },
        question="Good day",
    ),
    _scene(
        "failures",
        {
            "Your answer before was refused: the answer does not satisfy the schema": '{"day": "Monday"}',
            "Which day": "On Monday.",
            "The weather on Monday?": '{"degrees": "hot"}',
            "Answer for Monday. The weather is not known.": "Come on Monday.",
        },
        question="When shall I come?",
    ),
]
