"""The parser's process: `python -m retrieval.parse --memory-mb 1024 [--tokenizer FILE]`.

Says that it is ready, then reads one request a line on stdin, writes one answer a line on stdout, both
JSON. Lives on after a document that is merely at fault; dies of one that
crashes it, and its parent starts another. Ends with its parent.
"""

import argparse
import ctypes
import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from retrieval.core.chunking import cuts
from retrieval.core.model import Chunking, ChunkingStrategy
from retrieval.core.tokens import TokenCounter, token_counter
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.formats import as_asked, read

READY = "ready"  # the first line
_PR_SET_PDEATHSIG = 1
_NICE = 19  # where there are fewer cores than work, searches go first
# The parent holds the answer several times while it reads it.
_MAX_TEXT_CHARACTERS = 64 * 1024 * 1024


def answer(request: dict[str, Any], tokens: TokenCounter) -> dict[str, Any]:
    """The chunks of one file, or why there are none."""
    limit = request["max_chunks"]
    try:
        strategy = ChunkingStrategy(request["strategy"])
        media_type, strategy = as_asked(request["media_type"], strategy)
        sections, warnings = read(Path(request["file"]), media_type)
        chunking = Chunking(
            max_tokens=request["max_tokens"], overlap_tokens=request["overlap_tokens"], strategy=strategy
        )
        # One more tells that it is too many; a hostile file could make millions.
        chunks = list(itertools.islice(cuts(sections, chunking, tokens), limit + 1))
        if len(chunks) > limit:
            raise Unreadable(
                f"the document would make more than {limit} chunks, at most {limit} are allowed; split it",
                reason="DOCUMENT_TOO_LARGE",
            )
        if sum(len(chunk.text) + len(chunk.context) for chunk in chunks) > _MAX_TEXT_CHARACTERS:
            raise Unreadable(
                f"the document has more than {_MAX_TEXT_CHARACTERS // 1024 // 1024} million characters of "
                "text; split it",
                reason="DOCUMENT_TOO_LARGE",
            )
    except Unreadable as error:
        return {"error": {"reason": error.reason, "message": error.message}}
    except RecursionError:
        return {"error": {"reason": "DOCUMENT_UNREADABLE", "message": "the document is nested too deeply"}}
    return {
        "chunks": [[chunk.text, chunk.context, chunk.location] for chunk in chunks],
        "warnings": warnings[:50],
    }


def main() -> None:
    """Answers until stdin ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--memory-mb", type=int, required=True)
    arguments.add_argument("--tokenizer", type=Path)
    options = arguments.parse_args()
    _bind_to_parent()
    os.nice(_NICE)
    bound = options.memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A parser that prints must not garble the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokens = token_counter(options.tokenizer)
    answers.write(f"{READY}\n")
    answers.flush()
    for line in sys.stdin:
        try:
            reply = json.dumps(answer(json.loads(line), tokens))
        except MemoryError:
            os._exit(77)  # what is left of the heap is not to be trusted
        answers.write(reply + "\n")
        answers.flush()


def _bind_to_parent() -> None:
    """Where the system can (Linux), the child dies with its parent even while it parses."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
