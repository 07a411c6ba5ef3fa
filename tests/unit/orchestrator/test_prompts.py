"""What prompts look like where their order matters."""

from orchestrator.core import prompts
from orchestrator.core.model import Evidence
from tests.support.fake_knowledge import chunk


def test_the_best_chunk_is_nearest_to_the_question() -> None:
    evidence = [Evidence(number=n, chunk=chunk(f"c{n}", f"text {n}")) for n in (1, 2, 3)]
    asked = prompts.task("why?", "find out", evidence=prompts.evidence_block(evidence), reports=[])
    assert asked.index("[3]") < asked.index("[2]") < asked.index("[1]") < asked.index("why?")
