"""Judges at OpenAI-compatible endpoints: one token, yes or no, by its log-probabilities."""

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2
import openai
import structlog
from openai import AsyncOpenAI

from evaluation.adapters.likelihoods import text_logprob
from evaluation.core.ports import Answer, Likelihood, Prompt, Question, Spent, Text
from manifests import ModelConfig
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable

log = structlog.get_logger()

_YES, _NO = frozenset({"yes", "y", "true"}), frozenset({"no", "n", "false"})
_TOP = 20
_TOO_LONG = "context_length_exceeded"
_VERDICT_TOKENS = 20
_ATTEMPTS, _BACKOFF_S, _LONGEST_WAIT_S = 3, 0.5, 10.0


class OpenAIJudge:
    """`JudgeModel` at an endpoint; learns from its first answer whether it has log-probabilities.

    Args:
        client: Holds the connections; the owner closes it.
        model: The model's name at the endpoint.
        config: Its parameters, limits and prices.
    """

    def __init__(self, *, client: AsyncOpenAI, model: str, config: ModelConfig) -> None:
        self._client = client
        self._model = model
        self._spec = config.spec
        self.name = config.metadata.full_name
        seed = config.spec.parameters.seed
        self._options: dict[str, Any] = {"temperature": 0} | ({} if seed is None else {"seed": seed})
        self.fingerprint = json.dumps([self.name, str(client.base_url), model, seed])
        self._slots = asyncio.Semaphore(config.spec.limits.max_concurrent)
        # None: not known yet. What worked once goes on being asked for, whatever becomes of single questions.
        self._logprobs: bool | None = None
        self._likelihoods: bool | None = None

    async def ask(self, question: Question) -> Answer:
        """See JudgeModel."""
        if self._logprobs is not False:
            answer = await self._by_token(question)
            if answer is not None:
                self._logprobs = True
                return answer
            if self._logprobs is None:
                self._logprobs = False
        return await self._by_form(question)

    async def write(self, prompt: Prompt, *, most_tokens: int) -> Text:
        """See JudgeModel."""
        body = await self._post(_before(prompt), max_tokens=most_tokens)
        try:
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise self._nonsense("it has no message") from error
        ended = choice.get("finish_reason") != "length"
        return Text(text=text.strip() if ended else "", **_spent(body))

    @property
    def has_likelihoods(self) -> bool:
        """See JudgeModel."""
        return self._likelihoods is not False

    async def likelihood(self, prompt: Prompt, text: str) -> Likelihood:
        """See JudgeModel. OpenAI's API has none of given texts; this is vLLM's addition to it."""
        messages = [*_before(prompt), {"role": "assistant", "content": text}]
        try:
            body = await self._post(
                messages,
                max_tokens=1,
                prompt_logprobs=0,
                add_generation_prompt=False,
                continue_final_message=True,
            )
        except FailedPrecondition as error:
            if not _is_refused(error):
                raise
            return self._without_likelihood({}, certain=error.metadata.get("code") != _TOO_LONG)
        tokens = body.get("prompt_logprobs")
        if tokens is None:
            return self._without_likelihood(body)
        try:
            nats = text_logprob(tokens, text)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            # Scores are less sure without it, and still scores.
            log.warning("judge_likelihoods_unreadable", judge=self.name, problem=repr(error))
            return self._without_likelihood(body)
        self._likelihoods = True
        return Likelihood(nats=nats, **_spent(body))

    def _without_likelihood(self, body: Mapping[str, Any], *, certain: bool = True) -> Likelihood:
        """Of this text; of all others too, if there never was one."""
        if certain and self._likelihoods is None:
            self._likelihoods = False
        return Likelihood(nats=None, **_spent(body))

    def cost(self, spent: Spent) -> tuple[int, str]:
        """See JudgeModel."""
        prices = self._spec.pricing
        if prices is None:
            return 0, ""
        paid = spent.input_tokens * float(prices.input_per_million_tokens)
        paid += spent.output_tokens * float(prices.output_per_million_tokens)
        return round(paid), prices.currency

    async def _by_token(self, question: Question) -> Answer | None:
        """None: the endpoint has no log-probabilities, or they say neither yes nor no."""
        messages = _messages(question, question.words)
        try:
            body = await self._post(messages, max_tokens=1, logprobs=True, top_logprobs=_TOP)
        except FailedPrecondition as error:
            if not _is_refused(error):
                raise
            return None
        try:
            logprobs = body["choices"][0].get("logprobs") or {}
            first = (logprobs.get("content") or [{}])[0]
            yes, no = _shares(first.get("top_logprobs") or [])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense("its log-probabilities cannot be read") from error
        if not yes + no > 0:
            return None
        return Answer(p_yes=yes / (yes + no), **_spent(body))

    async def _by_form(self, question: Question) -> Answer:
        yes, no = (json.dumps({"verdict": word}) for word in question.words)
        body = await self._post(
            _messages(question, (yes, no)), max_tokens=_VERDICT_TOKENS, response_format=_form(question.words)
        )
        try:
            text = body["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise self._nonsense("it has no message") from error
        word = _word(text)
        if word is None:
            raise self._nonsense("it says neither yes nor no")
        return Answer(p_yes=float(word), **_spent(body))

    async def _post(self, messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
        body = {"model": self._model, "messages": messages, **self._options, **options}
        for attempt in range(_ATTEMPTS):
            try:
                async with self._slots, asyncio.timeout(self._spec.limits.timeout_seconds):
                    response = await self._client.post(
                        "/chat/completions", cast_to=httpx2.Response, body=body
                    )
                found = response.json()
                if not isinstance(found, dict):
                    raise self._nonsense("its answer is no JSON object")
                return found
            except (openai.OpenAIError, TimeoutError) as failure:
                error = self._failure(failure)
                wait_s = _BACKOFF_S * 2**attempt
                if error.retry_after is not None:
                    wait_s = error.retry_after.total_seconds()
                last = attempt == _ATTEMPTS - 1 or wait_s > _LONGEST_WAIT_S
                if last or isinstance(error, FailedPrecondition | Internal):
                    raise error from failure
            except ValueError as failure:
                raise self._nonsense("its answer is no JSON") from failure
            await asyncio.sleep(wait_s)
        raise AssertionError("the loop ends by return or raise")

    def _failure(self, error: openai.OpenAIError | TimeoutError) -> ServiceError:
        facts = {"model": self.name}
        if isinstance(error, TimeoutError | openai.APIConnectionError):
            what = f"judge {self.name} does not answer ({type(error.__cause__ or error).__name__})"
            return Unavailable(what, reason="MODEL_UNAVAILABLE", metadata=facts)
        if not isinstance(error, openai.APIStatusError):
            return self._nonsense(str(error)[:200])
        status = error.status_code
        facts["status"] = str(status)
        if error.code:
            facts["code"] = str(error.code)
        what = f"judge {self.name} answered {status}"
        if status == 429:
            after = _seconds(error.response.headers.get("retry-after"))
            return ResourceExhausted(what, reason="MODEL_RATE_LIMITED", metadata=facts, retry_after=after)
        if status >= 500 or status in (408, 409, 425):
            return Unavailable(what, reason="MODEL_UNAVAILABLE", metadata=facts)
        return FailedPrecondition(what, reason="MODEL_REJECTED", metadata=facts)

    def _nonsense(self, what: str) -> Internal:
        return Internal(
            f"judge {self.name}: {what}", reason="MODEL_BAD_RESPONSE", metadata={"model": self.name}
        )


def _messages(question: Question, words: tuple[str, str]) -> list[dict[str, str]]:
    """The examples are answered as the question shall be."""
    examples = tuple((user, words[0] if verdict else words[1]) for user, verdict in question.examples)
    return _before(Prompt(system=question.system, user=question.user, examples=examples))


def _is_refused(error: FailedPrecondition) -> bool:
    """The request as it is, not whoever makes it."""
    return error.metadata.get("status") in ("400", "422")


def _before(prompt: Prompt) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for user, written in prompt.examples:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": written}]
    return [*messages, {"role": "user", "content": prompt.user}]


def _spent(body: Mapping[str, Any]) -> dict[str, int]:
    usage = body.get("usage") or {}
    return {
        "input_tokens": int(usage.get("prompt_tokens") or 0),
        "output_tokens": int(usage.get("completion_tokens") or 0),
    }


def _form(words: tuple[str, str]) -> dict[str, Any]:
    """For endpoints without log-probabilities: a whole verdict, as a form."""
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": list(words)}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def _shares(top: list[dict[str, Any]]) -> tuple[float, float]:
    yes = no = 0.0
    for token in top:
        word = str(token["token"]).strip().strip("\"'.*").casefold()
        share = math.exp(min(0.0, float(token["logprob"])))
        yes += share if word in _YES else 0.0
        no += share if word in _NO else 0.0
    return yes, no


def _word(text: str) -> bool | None:
    try:
        found = json.loads(text)
        text = str(found["verdict"]) if isinstance(found, dict) else str(found)
    except (ValueError, KeyError):
        pass  # an endpoint that does not know forms says it in words
    words = text.strip().casefold().split()
    first = words[0].strip("\"'.,:;*!") if words else ""
    return True if first in _YES else False if first in _NO else None


def _seconds(value: str | None) -> timedelta | None:
    try:
        seconds = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return timedelta(seconds=seconds) if 0 <= seconds <= 86_400 else None
