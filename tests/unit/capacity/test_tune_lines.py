"""What `agentteams tune` prints of a curve."""

from agentteams.retrieval.v1 import index_pb2 as pb

from agentteams_cli.curve import curve_lines


def test_one_line_a_point_and_the_chosen_one_is_marked() -> None:
    points = [
        pb.CurvePoint(
            type=pb.INDEX_TYPE_HNSW, search_params={"ef": ef}, recall_percent=recall, p50_milliseconds=ef / 50
        )
        for ef, recall in ((16, 70.0), (64, 95.5), (256, 100.0))
    ]
    status = pb.IndexStatus(
        type=pb.INDEX_TYPE_HNSW,
        build_params={"M": 16},
        search_params={"ef": 64},
        tuning=pb.Tuning(
            state=pb.Tuning.STATE_DONE,
            message="why",
            curve=points,
            recall_percent=95.5,
            queries=10,
            real_queries=4,
        ),
    )
    lines = curve_lines(status)
    assert lines[:2] == ["HNSW M 16, searched with ef 64", "why"]
    assert [line[0] for line in lines[2:5]] == [" ", "*", " "]
    bars = [line.count("█") for line in lines[2:5]]
    assert bars == [1, 34, 40]
    assert "95.5 % of the exact ten" in lines[5]
    assert "10 queries, 4 of them real" in lines[5]


def test_a_failure_says_why() -> None:
    status = pb.IndexStatus(tuning=pb.Tuning(state=pb.Tuning.STATE_FAILED, message="no collection"))
    (line,) = curve_lines(status)
    assert "FAILED. no collection" in line
