"""How many tokens a text has, by what its characters are and by what endpoints have counted."""

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.chat import Prompt, Tool, ToolCall
from orchestrator.core.context.tokens import (
    MAX_PERCENT,
    MIN_PERCENT,
    START_PERCENT,
    Learnt,
    all_units,
    most_tokens,
    prompt_tokens,
    tokens,
    tool_tokens,
    units,
)

# With the higher of the counts of two real tokenizers, cl100k_base and o200k_base.
MEASURED = {
    "prose": ("The warranty of the machine lasts two years from the day on which it was bought. " * 20, 341),
    "code": ("def total(rows):\n    return sum(row.price for row in rows if row.open)\n" * 20, 340),
    "numbers": ("".join(f"{n}," for n in range(1000, 2000)), 3000),
    "json": (json.dumps([{"id": n, "ok": True} for n in range(100)]), 1101),
    "keys": (base64.b64encode(random.Random(7).randbytes(3000)).decode(), 2844),
    "ids": ("".join(f"{random.Random(n).getrandbits(128):032x}\n" for n in range(100)), 1939),
    "table": ("".join(f"| {n} | {n * 7.31:.2f} | open |\n" for n in range(200)), 2263),
    "chinese": ("保修期为两年，从购买之日起计算。" * 20, 340),
    "russian": ("Гарантия составляет два года с даты покупки. " * 20, 441),
    "hindi": ("इस उत्पाद की वारंटी खरीद की तारीख से दो साल है। " * 20, 961),
    "emoji": ("😀🎉🚀🔥🤖" * 40, 560),
}
TEXT = st.text(max_size=300) | st.text(alphabet="abc XYZ019.,-é漢😀\n", max_size=300)
PERCENT = st.integers(MIN_PERCENT, MAX_PERCENT)


@pytest.mark.parametrize("kind", MEASURED)
def test_the_first_estimate_is_not_too_low_and_not_twice_too_high(kind: str) -> None:
    text, measured = MEASURED[kind]
    assert measured <= tokens(text, START_PERCENT) < 2 * measured


@given(TEXT, TEXT, PERCENT)
def test_a_longer_text_never_has_fewer_tokens(text: str, more: str, percent: int) -> None:
    assert tokens(text, percent) <= tokens(text + more, percent) <= len((text + more).encode())


@given(TEXT, TEXT, PERCENT)
def test_the_cheap_bound_is_a_bound(content: str, arguments: str, percent: int) -> None:
    prompts = [
        Prompt(
            role="assistant", content=content, tool_calls=(ToolCall(id="1", name="x", arguments=arguments),)
        )
    ]
    tools = [Tool(name="x", description=content, parameters={"text": arguments})]
    counted = sum(prompt_tokens(prompt, percent) for prompt in prompts) + tool_tokens(tools, percent)
    assert counted <= most_tokens(prompts, tools)


def test_half_a_surrogate_pair_counts_too() -> None:
    assert units("\ud83d" * 10) > 0


@given(st.lists(st.floats(0.4, 2.3), min_size=1, max_size=40), st.sampled_from(sorted(MEASURED)))
def test_what_was_counted_once_is_never_estimated_lower_right_after(ratios: list[float], kind: str) -> None:
    text, _ = MEASURED[kind]
    learnt = Learnt()
    for ratio in ratios:
        estimated = units(text)
        learnt.learn("m", estimated=estimated, counted=int(estimated * ratio))
    assert tokens(text, learnt.percent("m")) >= min(int(units(text) * ratios[-1]), len(text.encode()))


@given(st.floats(0.65, 2.3), st.floats(0.9, 1.0))
def test_a_model_whose_ratio_hardly_varies_is_estimated_from_above_and_closely(
    ratio: float, swing: float
) -> None:
    """Steady to ten percent, as the prompts of one team are: never too low, a fifth too high at most."""
    learnt = Learnt()
    for call in range(80):
        learnt.learn("m", estimated=10_000, counted=int(10_000 * ratio * (swing if call % 2 else 1.0)))
    assert 100 * ratio * 0.999 <= learnt.percent("m") <= 100 * ratio * 1.2


def test_it_stays_within_its_bounds_and_models_do_not_mix() -> None:
    learnt = Learnt()
    for _ in range(100):
        learnt.learn("greedy", estimated=1000, counted=1_000_000)
        learnt.learn("modest", estimated=1_000_000, counted=1)
        learnt.learn("short", estimated=10, counted=90)
    percents = [learnt.percent(model) for model in ("greedy", "modest", "short", "new")]
    assert percents == [MAX_PERCENT, MIN_PERCENT + 1, START_PERCENT, START_PERCENT]


def test_what_it_knows_is_bounded() -> None:
    learnt = Learnt()
    for number in range(1000):
        learnt.learn(str(number), estimated=1000, counted=2000)
    known = [number for number in range(1000) if learnt.percent(str(number)) != START_PERCENT]
    assert known == list(range(744, 1000))


def test_tools_and_arguments_are_part_of_a_request() -> None:
    prompt = Prompt(role="user", content="hello there")
    asks = Prompt(role="assistant", content="", tool_calls=(ToolCall(id="1", name="x", arguments="a" * 80),))
    tool = Tool(name="x", description="d" * 80, parameters={})
    assert all_units([prompt], []) < all_units([prompt, asks], []) < all_units([prompt, asks], [tool])
