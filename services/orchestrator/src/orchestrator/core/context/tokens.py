"""How many tokens a text has.

By its model's tokenizer, where its file is at hand; else an estimate by kinds of
characters, times what the endpoint's own counts have taught about the model.
docs/context.md has the measurements.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from orchestrator.core.chat import Prompt, Tool

Tokenizer = Callable[[str], int]
Measure = Tokenizer | int
"""How to count: a real tokenizer, or the estimate times so many percent."""

# Characters, or bytes, of one token; from tokenizers of 32,000 to 200,000 words over prose, code,
# tables, logs and six scripts: with START_PERCENT nothing was counted too low but rows of emoji.
_LETTERS = 4.0
_OTHER_ASCII = 1.6
_OTHER_BYTES = 2.6
_RANDOM = 0.5  # more for each character of a run that is no word: keys, hashes, base64
_ASTRAL = 1.5  # more for each character of four bytes: emoji

START_PERCENT = 130
MIN_PERCENT = 60
MAX_PERCENT = 250
_MARGIN = 1.05  # above the highest of the last counts
_DECAY = 0.1  # of the way down to a lower count, for each
_MIN_UNITS = 200.0  # what a prompt must have for its count to teach anything
_MAX_MODELS = 256

MESSAGE_TOKENS = 6  # that a chat template puts around a message
_LETTER_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "
_HIGH_BYTES = bytes(range(128, 256))
_RUN = re.compile(rb"[A-Za-z0-9+]{25,}")


def units(text: str) -> float:
    """The estimate before anything was learnt. A longer text never has less than its beginning."""
    data = text.encode(errors="replace")
    size = len(data)
    letters = size - len(data.translate(None, _LETTER_BYTES))
    high = size - len(data.translate(None, _HIGH_BYTES))
    out = letters / _LETTERS + (size - letters - high) / _OTHER_ASCII + high / _OTHER_BYTES
    if high:
        out += _ASTRAL * data.count(b"\xf0")
    return out + _RANDOM * sum(len(run) for run in _RUN.findall(data))


def tokens(text: str, measure: Measure) -> int:
    """By the tokenizer, or the estimate. No tokenizer makes more tokens than bytes."""
    if not isinstance(measure, int):
        return measure(text)
    return min(math.ceil(units(text) * measure / 100), len(text.encode(errors="replace")))


def prompt_tokens(prompt: Prompt, measure: Measure) -> int:
    """Of one message, with what the template puts around it."""
    return MESSAGE_TOKENS + sum(tokens(text, measure) for text in _texts(prompt))


def tool_tokens(tools: Sequence[Tool], measure: Measure) -> int:
    """Of the tools that are shown with a prompt."""
    return sum(MESSAGE_TOKENS + tokens(text, measure) for text in _tool_texts(tools))


def most_tokens(prompts: Iterable[Prompt], tools: Sequence[Tool]) -> int:
    """A bound that costs next to nothing: four bytes for each character, a token for each byte."""
    texts = [text for prompt in prompts for text in _texts(prompt)] + _tool_texts(tools)
    sizes = (len(text) if text.isascii() else 4 * len(text) for text in texts)
    return sum(MESSAGE_TOKENS + size for size in sizes)


def all_units(prompts: Iterable[Prompt], tools: Sequence[Tool]) -> float:
    """Of a whole request, without what the template adds."""
    return sum(units(text) for prompt in prompts for text in _texts(prompt)) + sum(
        units(text) for text in _tool_texts(tools)
    )


class Learnt:
    """What endpoints' counts have taught about their models: percent of the plain estimate.

    A higher count is taken at once, a lower one slowly: an estimate that is too
    low costs a refused request, one that is too high only some evidence.
    """

    def __init__(self) -> None:
        self._percent: OrderedDict[str, float] = OrderedDict()

    def percent(self, model: str) -> int:
        """By what to multiply the estimate for this model."""
        return math.ceil(self._percent.get(model, START_PERCENT))

    def learn(self, model: str, *, estimated: float, counted: int) -> None:
        """Takes in that a request of so many units was counted as so many tokens."""
        if estimated < _MIN_UNITS or counted <= 0:
            return
        seen = min(max(100 * _MARGIN * counted / estimated, MIN_PERCENT), MAX_PERCENT)
        known = self._percent.get(model, START_PERCENT)
        self._percent[model] = seen if seen > known else known + _DECAY * (seen - known)
        self._percent.move_to_end(model)
        if len(self._percent) > _MAX_MODELS:
            self._percent.popitem(last=False)


def _texts(prompt: Prompt) -> list[str]:
    return [prompt.content, *(text for call in prompt.tool_calls for text in (call.name, call.arguments))]


def _tool_texts(tools: Sequence[Tool]) -> list[str]:
    return [
        f"{tool.name} {tool.description} {msgspec.json.encode(tool.parameters).decode()}" for tool in tools
    ]
