"""The part of OpenAI's chat completions API that we speak."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from localmodel.server.errors import ApiError, invalid

MAX_MESSAGES = 400
MAX_TOOLS = 32
MAX_COMPLETION_TOKENS = 4096


class _Wire(BaseModel):
    # OpenAI clients send fields that make no difference here (user, store, metadata …).
    model_config = ConfigDict(extra="ignore", frozen=True)


class FunctionCall(_Wire):
    """A call that an assistant message made."""

    name: str = Field(min_length=1)
    arguments: str = "{}"


class ToolCall(_Wire):
    """One entry of an assistant message's tool_calls."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class TextPart(_Wire):
    """A content part; other kinds (images, audio) are refused."""

    type: Literal["text"]
    text: str


class Message(_Wire):
    """One message of the conversation; `text` is its content as one string."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> "Message":
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of role tool needs tool_call_id")
        if self.role in {"user", "tool"} and self.content is None:
            raise ValueError(f"a message of role {self.role} needs content")
        return self


class Function(_Wire):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _is_object_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value and value.get("type", "object") != "object":
            raise ValueError('must be a JSON schema of type "object"')
        if not isinstance(value.get("properties", {}), dict):
            raise ValueError("properties must be an object")
        return value


class Tool(_Wire):
    """One entry of tools."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Wire):
    """The function of a named tool_choice."""

    name: str


class NamedChoice(_Wire):
    """tool_choice that names a function."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Wire):
    """stream_options."""

    include_usage: bool = False


class ChatRequest(_Wire):
    """The body of POST /v1/chat/completions."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[Tool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice = "auto"
    response_format: dict[str, Any] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_COMPLETION_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_COMPLETION_TOKENS)
    n: Literal[1] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    # vLLM's addition to OpenAI's API: how likely the last message is as the assistant's answer.
    prompt_logprobs: Literal[0] | None = None
    continue_final_message: bool = False
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)

    @field_validator("tools", "tool_choice", "stream", "stream_options", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return (
            cls.model_fields[info.field_name].get_default(call_default_factory=True)
            if value is None
            else value
        )

    @model_validator(mode="after")
    def _choice_fits_tools(self) -> "ChatRequest":
        names = [tool.function.name for tool in self.tools]
        if isinstance(self.tool_choice, NamedChoice) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not in tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required' but tools is empty")
        if len(set(names)) != len(names):
            raise ValueError("tools holds the same function name twice")
        return self

    @model_validator(mode="after")
    def _has_text_to_score(self) -> "ChatRequest":
        if self.prompt_logprobs is None:
            return self
        last = self.messages[-1]
        if not (
            self.continue_final_message and last.role == "assistant" and last.text and self.messages[:-1]
        ):
            raise ValueError(
                "prompt_logprobs needs continue_final_message: true, and at the end of messages one of the "
                "assistant with the text that is scored"
            )
        if self.stream or self.tools:
            raise ValueError("prompt_logprobs is served without stream and tools")
        return self


def parse_request(body: bytes) -> ChatRequest:
    """Reads a request body.

    Raises:
        ApiError: 400, naming the first field that is wrong.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as exc:
        raise _refusal(exc) from exc


def _refusal(exc: ValidationError) -> ApiError:
    first = exc.errors(include_url=False)[0]
    # The names of union branches are of no use to the caller.
    path = [part for part in first["loc"] if isinstance(part, int) or part.islower()]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    for noise in ("[str]", ".str", ".list[TextPart]"):
        field = field.replace(noise, "")
    value = repr(first["input"])
    shown = value if len(value) <= 80 else f"{value[:77]}…"
    text = first["msg"].removeprefix("Value error, ")
    param = field or ("body" if first["type"].startswith("json") else "messages")
    if first["type"] == "value_error" and not field:
        param = text.split(" ", 1)[0]
    return invalid(f"{param}: {text} (got {shown})", param=param)
