"""The judge at an OpenAI-compatible endpoint, with log-probabilities and without."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from evaluation.adapters.judge_openai import OpenAIJudge
from evaluation.core.ports import Prompt, Question
from manifests import ModelConfig
from servicekit.errors import FailedPrecondition, Internal, Unavailable
from tests.support.model_server import Fault, ModelServer, Reply

CONFIG = ModelConfig.model_validate(
    {
        "metadata": {"name": "judge"},
        "spec": {
            "type": "Chat",
            "provider": "OpenAICompatible",
            "model": "m",
            "endpoint": {"url": "http://127.0.0.1:9/v1"},
            "pricing": {"currency": "EUR", "inputPerMillionTokens": "2", "outputPerMillionTokens": "10"},
        },
    }
)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def judge(model: ModelServer) -> AsyncIterator[OpenAIJudge]:
    client = AsyncOpenAI(base_url=model.base_url, api_key="none", max_retries=0)
    yield OpenAIJudge(client=client, model="m", config=CONFIG)
    await client.close()


async def test_the_score_is_the_share_of_yes_in_all_that_says_yes_or_no(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    model.queue(Reply("Yes", top_logprobs={"Yes": 0.5, " yes": 0.1, "No": 0.2, "Maybe": 0.2}))
    answer = await judge.ask(Question(system="Be strict.", user="Is it so?"))
    assert answer.p_yes == pytest.approx(0.6 / 0.8)
    body = model.requests[-1].body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert body["temperature"] == 0
    cost, currency = judge.cost(answer)
    assert currency == "EUR"
    assert cost == round(answer.input_tokens * 2 + answer.output_tokens * 10)


@pytest.mark.parametrize(("said", "p_yes"), [('{"verdict": "no"}', 0.0), ("Yes, it is.", 1.0)])
async def test_without_log_probabilities_a_verdict_is_asked_for_from_then_on(
    model: ModelServer, judge: OpenAIJudge, said: str, p_yes: float
) -> None:
    model.queue(Reply("Yes"), Reply(said), Reply(said))
    for _ in range(2):
        assert (await judge.ask(Question(user="u"))).p_yes == p_yes
    forms = [one.body["response_format"]["type"] for one in model.requests if "response_format" in one.body]
    assert (len(model.requests), forms) == (3, ["json_schema"] * 2)


async def test_examples_come_first_answered_as_the_question_shall_be(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    model.queue(
        Reply("False", top_logprobs={"True": 0.2, "False": 0.6}), Reply("Hm"), Reply('{"verdict": "false"}')
    )
    question = Question(
        system="s", user="u", examples=(("one", True), ("two", False)), words=("true", "false")
    )
    assert (await judge.ask(question)).p_yes == pytest.approx(0.25)
    assert (await judge.ask(question)).p_yes == 0.0
    by_token, _, by_form = (one.body for one in model.requests)
    for body, yes, no in (
        (by_token, "true", "false"),
        (by_form, '{"verdict": "true"}', '{"verdict": "false"}'),
    ):
        assert [(m["role"], m["content"]) for m in body["messages"]] == [
            ("system", "s"), ("user", "one"), ("assistant", yes), ("user", "two"), ("assistant", no),
            ("user", "u"),
        ]  # fmt: skip
    schema = by_form["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["true", "false"]


PROMPT = Prompt(system="s", user="u", examples=(("one", "It is so."),))


async def test_how_likely_a_text_is_is_read_from_the_tokens_of_the_prompt(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    tokens = [("u", -9.0), ("<|im_start|>", -9.0), ("It", -1.0), (" is", -0.5), (" not", -0.25)]
    model.queue(Reply("!", prompt_logprobs=tokens, input_tokens=5))
    found = await judge.likelihood(PROMPT, "It is not")
    assert (found.nats, found.input_tokens) == (-1.75, 5)
    body = model.requests[-1].body
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("system", "s"),
        ("user", "one"),
        ("assistant", "It is so."),
        ("user", "u"),
        ("assistant", "It is not"),
    ]
    # vLLM refuses a text that is to be continued and a prompt for a new one together.
    wanted = {"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False}
    assert body.items() >= (wanted | {"max_tokens": 1, "temperature": 0}).items()


@pytest.mark.parametrize("kind", ["refused", "unknown", "unreadable"])
async def test_an_endpoint_without_likelihoods_is_asked_for_them_once(
    model: ModelServer, judge: OpenAIJudge, kind: str
) -> None:
    assert judge.has_likelihoods
    if kind == "refused":
        model.fail(Fault(kind="status", status=400))
    else:
        model.queue(Reply("!", prompt_logprobs=[("It", -1.0)] if kind == "unreadable" else None))
    assert (await judge.likelihood(PROMPT, "It is not")).nats is None
    assert not judge.has_likelihoods
    assert len(model.requests) == 1


async def test_one_text_that_is_refused_says_nothing_of_the_others(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    refused = Fault(kind="status", status=400)
    model.queue(Reply("!", prompt_logprobs=[("It", -1.0)]), Reply("Yes", top_logprobs={"Yes": 0.5}))
    assert (await judge.likelihood(PROMPT, "It")).nats == -1.0
    assert (await judge.ask(Question(user="u"))).p_yes == 1.0
    model.fail(refused)
    assert (await judge.likelihood(PROMPT, "It")).nats is None
    assert judge.has_likelihoods
    model.fail(Fault(kind="status", status=400))
    model.queue(Reply('{"verdict": "no"}'), Reply("Yes", top_logprobs={"Yes": 0.3, "No": 0.1}))
    assert [(await judge.ask(Question(user="u"))).p_yes for _ in range(2)] == [0.0, pytest.approx(0.75)]


async def test_likelihoods_that_are_late_are_an_error_and_not_missing(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    model.fail(*(Fault(kind="status", status=503) for _ in range(3)))
    with pytest.raises(Unavailable):
        await judge.likelihood(PROMPT, "It is not")
    assert judge.has_likelihoods


async def test_what_is_written_is_whole_or_nothing(model: ModelServer, judge: OpenAIJudge) -> None:
    model.queue(Reply(" It is not so.\n"), Reply("It is not", finish_reason="length"))
    assert (await judge.write(PROMPT, most_tokens=9)).text == "It is not so."
    assert (await judge.write(PROMPT, most_tokens=9)).text == ""
    assert model.requests[-1].body["max_tokens"] == 9


async def test_an_answer_that_says_neither_is_an_error_and_no_score(
    model: ModelServer, judge: OpenAIJudge
) -> None:
    model.queue(Reply("Hm"), Reply("It depends."))
    with pytest.raises(Internal) as caught:
        await judge.ask(Question(user="u"))
    assert caught.value.reason == "MODEL_BAD_RESPONSE"


@pytest.mark.parametrize(("status", "error"), [(503, Unavailable), (401, FailedPrecondition)])
async def test_errors_are_typed_and_what_may_pass_is_tried_again(
    model: ModelServer, judge: OpenAIJudge, status: int, error: type[Exception]
) -> None:
    tries = 3 if status == 503 else 1
    for _ in range(tries):
        model.fail(Fault(kind="status", status=status))
    with pytest.raises(error):
        await judge.ask(Question(user="u"))
    assert len(model.requests) == tries
