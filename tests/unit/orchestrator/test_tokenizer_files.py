"""Tokens counted by a model's own tokenizer, where its file is at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from orchestrator.adapters.tokenizer_files import TokenizerFiles
from orchestrator.core.chat import Prompt
from orchestrator.core.context.budget import Contexts
from orchestrator.core.context.fit import fit
from orchestrator.core.context.tokens import MESSAGE_TOKENS, tokens
from orchestrator.core.model import ContextTrimmed, Message
from orchestrator.core.turn import World
from tests.support.fake_models import says
from tests.support.one_run import play
from tests.support.orchestrator_fakes import Bench, model_config, of_type, team

pytestmark = pytest.mark.usefixtures("as_ada")

WORDS = "the warranty of the machine lasts two years from the day on which it was bought "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a real tokenizer for the model `chat`, and of a file that is none for `broken`."""
    folder = tmp_path_factory.mktemp("tokenizers")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([WORDS * 20], trainer)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "chat.json"))
    (folder / "broken.json").write_text("{}")
    return folder


async def test_a_file_counts_what_its_model_would(folder: Path) -> None:
    files = TokenizerFiles(folder)
    count = await files.of(model_config())
    assert count is not None
    # A token for each word, spaces and all, and no end at its truncation.
    assert count(WORDS * 10) == 10 * len(WORDS.split()) + 1
    assert count("\ud83d") == 1
    assert await files.of(model_config()) is count
    assert await files.of(model_config("absent")) is None
    assert await files.of(model_config("broken")) is None


async def test_without_a_file_tokens_are_estimated(folder: Path) -> None:
    contexts = Contexts(tokenizers=TokenizerFiles(folder))
    assert await contexts.measure(model_config("absent")) == contexts.learnt.percent("default/absent")


async def test_a_prompt_is_cut_to_what_the_tokenizer_says(folder: Path) -> None:
    measure = await Contexts(tokenizers=TokenizerFiles(folder)).measure(model_config())
    question = Prompt(role="user", content="why")
    history = [Prompt(role="user", content=WORDS * n, kind="history") for n in (4, 3, 2)]
    sizes = [MESSAGE_TOKENS + tokens(prompt.content, measure) for prompt in [*history, question]]
    assert sizes[2] == MESSAGE_TOKENS + 2 * len(WORDS.split()) + 1
    exactly = fit([*history, question], [], budget_tokens=sum(sizes[1:]), measure=measure)
    assert exactly.prompts == [*history[1:], question]
    less = fit([*history, question], [], budget_tokens=sum(sizes[1:]) - 1, measure=measure)
    assert less.prompts == [history[2], question]


class Kit(Bench):
    """A bench whose model reads 500 tokens, 250 of them a prompt."""

    contexts = Contexts(built_in_tokens=500)

    @property
    def world(self) -> World:
        return replace(super().world, contexts=self.contexts)


async def test_the_log_says_that_a_tokenizer_counted_and_a_resumed_run_counts_so_again(folder: Path) -> None:
    history = [Message(role="user", content=f"{WORDS * 8} {n}") for n in range(4)]

    async def play_after(before: list[Any]) -> Kit:
        kit = Kit()
        kit.contexts = replace(Kit.contexts, tokenizers=TokenizerFiles(folder))
        await play(kit, team(), says("Because."), history=history, before=before)
        return kit

    first = await play_after([])
    (trimmed,) = of_type(first.store.steps(), ContextTrimmed)
    assert (trimmed.percent, trimmed.budget_tokens) == (0, 250)
    assert [prompt.content[-1] for prompt in first.models.calls[0].prompts[1:-1]] == ["3"]
    again = await play_after(first.store.log["runs/r1"][:1])
    assert again.models.calls[0].prompts == first.models.calls[0].prompts
    assert list(of_type(again.store.steps(), ContextTrimmed)) == [trimmed]
