"""Asks model endpoints whether they answer. Of what they say only the kind of answer is told on."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import httpx2 as httpx

from agentteams_operator.core.ports import Probe
from manifests import ModelConfig
from manifests.endpoints import endpoint_url

_TIMEOUT_S = 10.0
_MAX_BYTES = 4 << 20
_MAX_PROBES = 16


class EndpointProbes:
    """At most 16 at a time; redirects are not followed: they would carry the key elsewhere."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_MAX_PROBES)

    async def probe(self, config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> Probe:
        """See the port."""
        if config.spec.provider == "BuiltIn":
            return Probe(reason="BuiltIn", message="the installation's own model")
        async with self._places:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await _ask(config, secrets)
            except TimeoutError:
                return _no_answer(config, f"nothing within {_TIMEOUT_S:.0f} s")
            except ssl.SSLError as error:
                return _no_answer(config, f"TLS failed ({error.reason or 'unknown'})")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                return _no_answer(config, type(error).__name__)


async def _ask(config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> Probe:
    spec = config.spec
    try:
        headers = _headers(config, secrets)
        trust = _trust(config, secrets)
    except ValueError as error:
        return Probe(reason="Refused", message=str(error))
    async with httpx.AsyncClient(
        base_url=_url(config), headers=headers, verify=trust, timeout=_TIMEOUT_S, trust_env=True
    ) as client:
        if spec.type == "Embedding":
            body: dict[str, Any] = {"model": spec.model, "input": ["probe"]}
            if spec.embedding.dimensions is not None:
                body["dimensions"] = spec.embedding.dimensions
            return _embedding(config, *await _call(client, "POST", "/embeddings", body))
        if spec.type == "Rerank":
            body = {"model": spec.model, "query": "probe", "documents": ["probe"]}
            return _any(config, *await _call(client, "POST", "/rerank", body))
        return _chat(config, *await _call(client, "GET", "/models", None))


async def _call(client: httpx.AsyncClient, method: str, path: str, body: object) -> tuple[int, Any]:
    """Status and JSON; None if it is none, or too long."""
    async with client.stream(method, path, json=body) as response:
        content = b""
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > _MAX_BYTES:
                return response.status_code, None
    try:
        return response.status_code, httpx.Response(200, content=content).json()
    except ValueError:
        return response.status_code, None


def _chat(config: ModelConfig, code: int, answer: Any) -> Probe:
    if code in (404, 405):
        # Some serve chat completions and no list of models: they are there.
        return Probe(reason="Answered", message=f"{_url(config)} answers, without a list of models")
    failure = _failure(config, code)
    if failure is not None:
        return failure
    listed = answer.get("data") if isinstance(answer, dict) else None
    names = [m.get("id") for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
    if names and config.spec.model not in names:
        message = (
            f'spec.model: {_url(config)} serves {len(names)} models, and "{config.spec.model}" is none of '
            "them; correct the name, or load it there"
        )
        return Probe(reason="ModelNotServed", message=message)
    return Probe(reason="Answered", message=f"{_url(config)} answers")


def _embedding(config: ModelConfig, code: int, answer: Any) -> Probe:
    failure = _failure(config, code)
    if failure is not None:
        return failure
    try:
        vector = answer["data"][0]["embedding"]
        dimensions = len(vector)
    except (KeyError, IndexError, TypeError):
        return _bad(config, "no vector")
    if not dimensions or not all(isinstance(x, int | float) for x in vector):
        return _bad(config, "no vector")
    return Probe(reason="Answered", message=f"{_url(config)} answers", dimensions=dimensions)


def _any(config: ModelConfig, code: int, answer: Any) -> Probe:
    failure = _failure(config, code)
    if failure is not None:
        return failure
    if not isinstance(answer, dict | list):
        return _bad(config, "no JSON")
    return Probe(reason="Answered", message=f"{_url(config)} answers")


def _failure(config: ModelConfig, code: int) -> Probe | None:
    if code < 300:
        return None
    url = _url(config)
    if code in (401, 403):
        ref = config.spec.credentials_secret_key_ref
        fix = (
            f'correct the key "{ref.key}" of the Secret "{ref.name}"'
            if ref
            else "it wants a key: name one by spec.credentialsSecretKeyRef"
        )
        return Probe(reason="Refused", message=f"{url} refuses with {code}; {fix}")
    if code in (400, 404, 422):
        message = f'{url} answers with {code} for model "{config.spec.model}"; correct it, or the URL'
        return Probe(reason="ModelNotServed", message=message)
    if code < 400:
        return _no_answer(config, f"a redirect ({code}), which is not followed")
    return _no_answer(config, f"status {code}")


def _no_answer(config: ModelConfig, what: str) -> Probe:
    message = f"{_url(config)}: {what}; check spec.endpoint.url, and that it can be reached from here"
    return Probe(reason="NoAnswer", message=message)


def _bad(config: ModelConfig, what: str) -> Probe:
    message = f"{_url(config)} answers with {what}; check that it speaks the OpenAI API"
    return Probe(reason="BadAnswer", message=message)


def _url(config: ModelConfig) -> str:
    return endpoint_url(config.spec).rstrip("/")


def _headers(config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> dict[str, str]:
    ref = config.spec.credentials_secret_key_ref
    refs = [(h.name, h.value_from.secret_key_ref) for h in config.spec.headers_from]
    headers = {name: _text(secrets, at.name, at.key) for name, at in refs}
    if ref is not None:
        headers["Authorization"] = f"Bearer {_text(secrets, ref.name, ref.key)}"
    return headers


def _text(secrets: Mapping[tuple[str, str], bytes], name: str, key: str) -> str:
    try:
        text = secrets[name, key].decode("ascii").strip()
    except (KeyError, UnicodeDecodeError):
        text = ""
    if not text or not text.isprintable():
        raise ValueError(f'key "{key}" of the Secret "{name}" is no header: one line of ASCII is needed')
    return text


def _trust(config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> ssl.SSLContext:
    tls = config.spec.tls
    if tls is None:
        return ssl.create_default_context()
    ref = tls.ca_secret_key_ref
    try:
        return ssl.create_default_context(cadata=secrets[ref.name, ref.key].decode("ascii"))
    except (KeyError, UnicodeDecodeError, ssl.SSLError) as error:
        raise ValueError(f'key "{ref.key}" of the Secret "{ref.name}" holds no PEM certificates') from error
