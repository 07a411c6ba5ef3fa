"""Do the two methods of the evaluation service tell supported claims from contradicted ones?

    python bench/faithfulness.py [--sample N] [--split SPLIT] [--unrelated] [--local-only]
                                  [--base-url URL --model NAME]

Claims of SciFact with their gold evidence sentences. `judge` is P(yes) of a chat model, asked by the
service's own code and prompt: the local 1.5B model, which is started here, or one at --base-url.
`grounding` is the local method, with the built-in embedding model. AUC: the probability that a supported
claim gets a higher score than a contradicted one. Exit code 1 if the judge's is below 0.85.

--unrelated measures something else: supported claims with their own evidence, and the same claims with
that of others (both methods should notice evidence that is off the topic).

--sample takes so many claims, half of each label, always the same ones; default: the whole split.
Prompts are tuned on `--split train` only.

The data are not part of the project (their licence forbids commercial use): the folder is --data,
else $BENCH_DATA, else ../shared/data.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openai import AsyncOpenAI

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from embedding.adapters.onnx import OnnxEmbedder  # noqa: E402
from embedding.core.admission import Admission  # noqa: E402
from embedding.core.ports import TextKind  # noqa: E402
from embedding.core.work import WorkQueue  # noqa: E402
from evaluation.adapters.judge_openai import OpenAIJudge  # noqa: E402
from evaluation.core.grounding import Evidence  # noqa: E402
from evaluation.core.judge import CALLS_PER_CLAIM, Judge, Memory  # noqa: E402
from evaluation.core.model import Chunk  # noqa: E402
from evaluation.core.ports import Vectors  # noqa: E402
from evaluation.core.prompts import PROMPTS  # noqa: E402
from manifests import ModelConfig  # noqa: E402
from tests.support.stack import cached_embedding_model  # noqa: E402

TARGET = 0.85
MODEL = "qwen2.5-coder-1.5b-instruct"
_START_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A claim with its evidence, and whether that supports it."""

    claim: str
    evidence: str
    supported: bool


def read(folder: Path, split: str, sample: int) -> list[Pair]:
    """The pairs of a split. Raises: SystemExit if the data are not there."""
    file = folder / "scifact_claims.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(
            f"bench/faithfulness.py: not measured: {file} is not there. It is a list of {{split, claim, "
            "evidence, label: supported | contradicted}. Name its folder with --data or BENCH_DATA."
        )
    pairs = [
        Pair(claim=row["claim"], evidence=row["evidence"], supported=row["label"] == "supported")
        for row in rows
        if row["split"] == split
    ]
    if not sample:
        return pairs
    chosen: list[Pair] = []
    for supported in (True, False):
        of_label = [pair for pair in pairs if pair.supported is supported]
        random.Random(1).shuffle(of_label)
        chosen += of_label[: sample // 2]
    return chosen


def unrelated(pairs: Sequence[Pair]) -> list[Pair]:
    """The supported ones, and then their claims with the evidence of another."""
    good = [pair for pair in pairs if pair.supported]
    far = len(good) // 2  # neighbours in the file are often about the same
    others = zip(good, good[far:] + good[:far], strict=True)
    return good + [Pair(claim=one.claim, evidence=other.evidence, supported=False) for one, other in others]


def auc(scores: Sequence[float], pairs: Sequence[Pair]) -> float:
    """Probability that a supported claim scores higher than a contradicted one; ties count half."""
    good = np.array([s for s, pair in zip(scores, pairs, strict=True) if pair.supported])
    bad = np.array([s for s, pair in zip(scores, pairs, strict=True) if not pair.supported])
    wins = (good[:, None] > bad[None, :]).mean() + 0.5 * (good[:, None] == bad[None, :]).mean()
    return float(wins)


async def grounding(pairs: Sequence[Pair]) -> list[float]:
    """The local method's scores."""
    admission = Admission(max_texts=100_000, observe=lambda _: None)
    folder = cached_embedding_model()
    if folder is None:
        sys.exit("bench/faithfulness.py: not measured: no embedding model here; run `make run` once")
    embedder = OnnxEmbedder.load(folder, work=WorkQueue(threads=2), admission=admission)

    async def embed(texts: Sequence[str], *, query: bool = False) -> Vectors:
        kind = TextKind.QUERY if query else TextKind.PASSAGE
        return (await embedder.embed(list(texts), kind)).vectors

    found: list[float] = []
    for pair in pairs:
        chunk = Chunk(number=1, knowledge_base="", chunk="", document="", title="", text=pair.evidence)
        evidence = await Evidence.of({1: chunk}, embed)
        [vector] = await embed([pair.claim])
        found.append(evidence.closest(pair.claim, vector, [1]).score)
    await embedder.aclose()
    return found


async def judged(pairs: Sequence[Pair], url: str, model: str) -> list[float]:
    """The judge's."""
    config = ModelConfig.model_validate(
        {
            "metadata": {"name": "judge"},
            "spec": {
                "type": "Chat",
                "provider": "OpenAICompatible",
                "model": model,
                "endpoint": {"url": url},
                "limits": {"timeoutSeconds": 600},
            },
        }
    )
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
        one = OpenAIJudge(client=client, model=model, config=config)
        calls = CALLS_PER_CLAIM * len(pairs)
        judge = Judge(model=one, memory=Memory(most=10_000), max_calls=calls, parallel=1)
        found: list[float] = []
        for pair in pairs:
            p_yes = await judge.supports(pair.evidence, pair.claim)
            if p_yes is None:
                raise AssertionError("enough calls are allowed")
            found.append(p_yes)
            print(f"\r{len(found)}/{len(pairs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


@contextmanager
def local_model() -> Iterator[str]:
    """The local chat model's server; yields its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Threads that wait by spinning starve every other process on a small machine.
    env = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    command = [sys.executable, "-P", "-m", "localmodel", "serve", "--model", MODEL, "--port", str(port)]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/healthz", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"bench/faithfulness.py: not measured: the local model ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"bench/faithfulness.py: not measured: the local model was not ready within {_START_S:.0f} s")


def _row(name: str, scores: Sequence[float], pairs: Sequence[Pair], seconds: float) -> float:
    right = sum((s >= 0.5) == pair.supported for s, pair in zip(scores, pairs, strict=True)) / len(pairs)
    value = auc(scores, pairs)
    print(f"{name:<12}{value:>8.3f}{right:>10.2f}{seconds / len(pairs):>12.3f}")
    return value


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--split", default="validation", choices=["train", "validation"])
    parser.add_argument("--sample", type=int, default=0, help="claims; 0: all")
    parser.add_argument("--base-url", help="an endpoint that runs already, with /v1")
    parser.add_argument("--model", default=MODEL, help="the model's name there")
    parser.add_argument(
        "--unrelated", action="store_true", help="evidence of other claims, no contradictions"
    )
    parser.add_argument("--local-only", action="store_true", help="no judge")
    data = Path(os.environ.get("BENCH_DATA", ROOT.parent / "shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    options = parser.parse_args()
    pairs = read(options.data, options.split, options.sample)
    if options.unrelated:
        pairs = unrelated(pairs)
    supported = sum(pair.supported for pair in pairs)
    other = "with evidence of others" if options.unrelated else "contradicted"
    of = f"{supported} supported, {len(pairs) - supported} {other}"
    print(f"SciFact, {options.split}: {of}; load {os.getloadavg()[0]:.1f}")
    print(f"{'':<12}{'AUC':>8}{'accuracy':>10}{'s a claim':>12}")
    began = time.perf_counter()
    _row("grounding", asyncio.run(grounding(pairs)), pairs, time.perf_counter() - began)
    if options.local_only:
        return 0
    if options.base_url:
        began = time.perf_counter()
        scores = asyncio.run(judged(pairs, options.base_url, options.model))
    else:
        with local_model() as url:
            began = time.perf_counter()
            scores = asyncio.run(judged(pairs, url, MODEL))
    value = _row("judge", scores, pairs, time.perf_counter() - began)
    calls = f"at most {CALLS_PER_CLAIM} calls a claim"
    print(f"judge: {options.model}, prompts version {PROMPTS}, {calls}; target AUC {TARGET}")
    return 0 if value >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
