"""agentteams export: all chunks of a knowledge base."""

import contextlib
import json
import struct
import sys

import click
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from agentteams_cli.client import connect
from agentteams_cli.commands.search import FilterText
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.knowledge import value_of


@click.command("export")
@click.argument("knowledge_base")
@click.option("--filter", "filter_", type=FilterText(), help="Only chunks that it allows, as with search.")
@click.option("--vectors", is_flag=True, help="With their vectors.")
@common
@click.pass_obj
def export_command(
    settings: Settings, knowledge_base: str, filter_: filter_pb.Filter | None, vectors: bool
) -> None:
    """Write all chunks of KNOWLEDGE_BASE to stdout, a line of JSON each.

    An export that fails half way ends with exit code 1 or 3, and what was written is not all.
    """
    count = run_async(_export(settings, knowledge_base, filter_, vectors))
    settings.output.note(f"{count} chunks")


async def _export(
    settings: Settings, knowledge_base: str, filter_: filter_pb.Filter | None, vectors: bool
) -> int:
    count = 0
    async with connect(settings.state) as client:
        exported = client.knowledge.export(knowledge_base, filter_=filter_, vectors=vectors)
        async with contextlib.aclosing(exported):  # type: ignore[type-var]
            async for response in exported:
                _write(response)
                count += len(response.chunks)
    return count


def _write(response: pb.ExportChunksResponse) -> None:
    size = len(response.vectors) // len(response.chunks)
    for number, chunk in enumerate(response.chunks):
        line: dict[str, object] = {
            "id": chunk.id,
            "document": chunk.document,
            "path": chunk.document_title,
            "ordinal": chunk.ordinal,
            "location": chunk.location,
            "text": chunk.text,
            "metadata": {name: value_of(value) for name, value in chunk.metadata.items()},
        }
        if size:
            vector = response.vectors[number * size : (number + 1) * size]
            line["vector"] = struct.unpack(f"<{size // 4}f", vector)
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
