"""Golden sets in files; `manifests.golden` has their forms."""

from pathlib import Path

from agentteams.retrieval.v1 import evaluation_pb2 as pb

from agentteams_cli.errors import CliError
from manifests.golden import GoldenSetInvalid, parse_golden_set
from manifests.knowledge_pb import golden_set_to_pb


def read_golden_set(file: Path, *, name: str = "") -> pb.GoldenSet:
    """The queries of a file, called as the file unless `name` says otherwise.

    Raises:
        CliError: It cannot be read, or is of neither form.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise CliError(f"{file} cannot be read: {' '.join(str(exc).split())}") from exc
    try:
        queries = parse_golden_set(text, name=file.name)
    except GoldenSetInvalid as exc:
        raise CliError(
            f"{file}{' ' if str(exc).startswith('cannot be read') else ': '}{exc}",
            fix="a golden set is `queries: [{query: ..., relevant: [PATH, ...]}, ...]`",
        ) from exc
    return golden_set_to_pb(queries, name=name or file.stem)
