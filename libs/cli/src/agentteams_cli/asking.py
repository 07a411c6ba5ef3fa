"""The sample question, asked as any OpenAI client would ask it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentteams_cli.console import Output
from agentteams_cli.errors import CliError
from agentteams_cli.render import print_citations, print_stages, print_usage

# A small local model on a busy machine: two members and a leader, each reading 600 tokens.
ANSWER_TIMEOUT_S = 900.0


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back."""

    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The field `agentteams` of the last chunk."""

    @property
    def is_good(self) -> bool:
        """Whether there is an answer, as opposed to a run that failed."""
        return bool(self.text.strip()) and str(self.details.get("status", "")).lower() in ("", "succeeded")


async def ask(output: Output, *, base_url: str, team: str, question: str) -> Answer:
    """Asks through /v1/chat/completions with the official client, and streams the answer to stdout.

    Raises:
        CliError: There is no answer; says why.
    """
    import openai  # noqa: PLC0415 - a second of start-up that no other command needs

    answer = Answer()
    # No retries: a repeated question would be a second run.
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key="local", max_retries=0, timeout=ANSWER_TIMEOUT_S
    ) as client:
        try:
            stream = await client.chat.completions.create(
                model=team, messages=[{"role": "user", "content": question}], stream=True
            )
            async for chunk in stream:
                details = (chunk.model_extra or {}).get("agentteams")
                if isinstance(details, dict):
                    answer.details = details
                for choice in chunk.choices:
                    if choice.delta.content:
                        output.piece(choice.delta.content)
                        answer.text += choice.delta.content
        except openai.APIStatusError as exc:
            raise CliError(f"no answer: {_message(exc)}", fix="see `agentteams doctor`") from exc
        except openai.APIError as exc:
            raise CliError(f"no answer: {exc.message}", fix="see `agentteams doctor`") from exc
        finally:
            if answer.text:
                output.piece("\n")
    return answer


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


def show(output: Output, answer: Answer) -> None:
    """Citations, what the ledger saved, and the stages of the turn."""
    output.line()
    print_citations(output, answer.details.get("citations") or [])
    output.line()
    print_usage(output, answer.details.get("usage") or {})
    output.line()
    print_stages(output, answer.details.get("stages") or [])
