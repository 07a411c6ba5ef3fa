"""A team's golden set as the session service takes it: for the command line and the operator."""

from collections.abc import Sequence

from agentteams.session.v1 import golden_sets_pb2 as pb

from manifests.golden_questions import GoldenQuestion


def questions_to_pb(team: str, name: str, questions: Sequence[GoldenQuestion]) -> pb.SetTeamGoldenSetRequest:
    """As SetTeamGoldenSet takes them; none: the golden set is taken away."""
    scheduled = [
        pb.ScheduledQuestion(id=one.id, question=one.question, sources=one.sources, facts=one.facts)
        for one in questions
    ]
    return pb.SetTeamGoldenSetRequest(team=f"teams/{team}", golden_set=name, questions=scheduled)
