"""agentteams ingest: files into a knowledge base."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import click

from agentteams_cli import ingesting
from agentteams_cli.client import connect
from agentteams_cli.console import Output
from agentteams_cli.context import Settings, common, run_async
from agentteams_cli.errors import EXIT_FAILED, CliError, UsageProblem
from agentteams_cli.ingesting import FAILED, PENDING, READY, SKIPPED, Ingested, find_files, ingest


def _metadata(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in given:
        field, sign, value = text.partition("=")
        if not sign or not field:
            raise click.BadParameter(f"{text!r} must be FIELD=VALUE, such as product=kettle")
        if field in values:
            raise click.BadParameter(f"{field} is given twice")
        values[field] = value
    return values


@click.command("ingest")
@click.argument("knowledge_base")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--retry-failed", is_flag=True, help="Index those that failed again, instead of new files.")
@click.option("--wait/--no-wait", default=True, help="Wait until all is indexed.  [default: wait]")
@click.option(
    "--metadata",
    multiple=True,
    metavar="FIELD=VALUE",
    callback=_metadata,
    help="What the files say about themselves, for filters; may be repeated. The field is one of the "
    "knowledge base's. The same files with other values are not embedded again.",
)
@common
@click.pass_obj
def ingest_command(
    settings: Settings,
    knowledge_base: str,
    paths: tuple[Path, ...],
    *,
    retry_failed: bool,
    wait: bool,
    metadata: dict[str, str],
) -> None:
    """Upload files and folders into KNOWLEDGE_BASE.

    Folders are taken with all that is below them; hidden files are left out, and kinds of files that are not
    supported are skipped and named. The exit code is 1 if any file failed.
    """
    if retry_failed == bool(paths):
        raise UsageProblem("give files and folders, or --retry-failed")
    if retry_failed and metadata:
        raise UsageProblem("--metadata is for files that are given, not with --retry-failed")
    if retry_failed:
        results = run_async(_retry(settings, knowledge_base, wait=wait))
    else:
        results = run_async(run(settings, knowledge_base, paths, wait=wait, metadata=metadata))
    report(settings.output, knowledge_base, results)
    if any(r.state == FAILED for r in results):
        click.get_current_context().exit(EXIT_FAILED)


async def run(
    settings: Settings,
    knowledge_base: str,
    paths: Sequence[Path],
    *,
    wait: bool,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[Ingested]:
    """Finds and ingests files with a progress bar."""
    files = find_files(paths)
    if not files:
        raise CliError(f"no files in {', '.join(map(str, paths))}", fix="hidden files are left out")
    async with connect(settings.state) as client:
        with settings.output.progress() as bar:
            return await ingest(client, knowledge_base, files, wait=wait, bar=bar, metadata=metadata)


async def _retry(settings: Settings, knowledge_base: str, *, wait: bool) -> list[Ingested]:
    async with connect(settings.state) as client:
        with settings.output.progress() as bar:
            return await ingesting.retry_failed(client, knowledge_base, wait=wait, bar=bar)


def report(output: Output, knowledge_base: str, results: Sequence[Ingested]) -> None:
    """Failures and skipped files by name, the rest as numbers."""
    for result in results:
        if result.state in (FAILED, SKIPPED):
            style = "red" if result.state == FAILED else "yellow"
            if not output.is_json:
                output.note(f"{result.state}: {result.path}: {result.reason}", style=style)
        for warning in result.warnings:
            if not output.is_json:
                output.note(f"warning: {result.path}: {warning}", style="yellow")
    counts = {
        state: sum(1 for r in results if r.state == state) for state in (READY, PENDING, FAILED, SKIPPED)
    }
    chunks = sum(r.chunks for r in results)
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    output.line(f"{knowledge_base}: {', '.join(parts) or 'nothing'}; {chunks} chunks can be found")
    output.json(
        {"knowledge_base": knowledge_base, "counts": counts, "documents": [asdict(r) for r in results]}
    )
