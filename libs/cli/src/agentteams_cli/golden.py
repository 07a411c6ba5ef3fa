"""Golden sets in files; `manifests.golden` has their forms."""

from pathlib import Path

from agentteams.retrieval.v1 import evaluation_pb2 as pb

from agentteams_cli.client import Client
from agentteams_cli.errors import CliError
from manifests import KnowledgeBase
from manifests.golden import GoldenSetInvalid, parse_golden_set
from manifests.knowledge_pb import golden_set_to_pb
from servicekit.errors import ServiceError


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


async def set_golden_set(client: Client, manifest: KnowledgeBase, config_maps: Path) -> str:
    """The golden set that the manifest refers to; why it was not set, if so.

    Args:
        config_maps: Folder with a file NAME/KEY for each key of a ConfigMap.
    """
    evaluation = manifest.spec.evaluation
    if evaluation is None or evaluation.golden_set_ref is None:
        return ""
    ref = evaluation.golden_set_ref.config_map_key_ref
    file = config_maps / ref.name / ref.key
    if not file.is_file():
        return f"spec.evaluation.goldenSetRef: there is no {file}; put the golden set there and apply again"
    try:
        golden_set = read_golden_set(file, name=evaluation.golden_set_name)
        await client.evaluations.set_golden_set(manifest.metadata.name, golden_set)
    except CliError as exc:
        return f"spec.evaluation.goldenSetRef: {exc}; {exc.fix}"
    except ServiceError as exc:
        return f"spec.evaluation.goldenSetRef: {exc.message}"
    return ""
