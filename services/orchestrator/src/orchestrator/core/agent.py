"""One agent: a model that answers, or asks for tools until it can."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from manifests import ModelConfig
from orchestrator.core.model import Prompt, Tool, ToolCall, ToolCallFinished, ToolCallStarted
from orchestrator.core.prompts import in_form
from orchestrator.core.recorded import call_step, model_step
from orchestrator.core.turn import LimitReached, Turn, together
from servicekit.errors import Internal, ServiceError

Arguments = Mapping[str, object]
RESULT_LIMIT = 16_000  # characters of a tool's result that a model is given, and the log keeps
_MAX_BAD_CALLS = 3


class BadArguments(Exception):
    """The model called a tool wrongly; the text tells it how to do it right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a tool.

    Attributes:
        call_id: Unique within the run, the same in every attempt.
        idempotency_key: Unique everywhere, the same in every attempt: what the
            tool calls can tell by it that the call was made before.
        arguments: What the model passed.
    """

    call_id: str
    idempotency_key: str
    arguments: Arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A tool and what happens when it is called.

    Attributes:
        tool: What the model sees.
        call: Returns what the model is told. Raises BadArguments.
        side_effects: That the call began is stored before it is made, and that
            it ended before anything else happens.
        resumes: It is made of steps of the run itself (a delegation): it measures
            its own stages, and an interrupted one goes on rather than begins again.
    """

    tool: Tool
    call: Callable[[Invocation], Awaitable[str]]
    side_effects: bool = True
    resumes: bool = False


class Agent:
    """Runs the loop of one agent within a turn.

    Args:
        turn: The run it belongs to.
        path: Its place in the run: empty, or the call that delegated to it.
        member: Its name; empty for the team itself.
        config: Its model.
        abilities: What it can call.
    """

    def __init__(
        self, *, turn: Turn, path: str, member: str, config: ModelConfig, abilities: Sequence[Ability]
    ) -> None:
        self._turn = turn
        self._path = path
        self._member = member
        self._config = config
        self._abilities = {ability.tool.name: ability for ability in abilities}
        self._tools = [ability.tool for ability in abilities]
        self._bad_calls = 0

    async def answer(self, conversation: Sequence[Prompt]) -> str:
        """The agent's answer. Its last allowed model call may not ask for tools.

        Raises:
            LimitReached: The run's limits.
            ServiceError: The model cannot be had, or calls tools wrongly again and again.
        """
        prompts = list(conversation)
        if self._turn.answer_schema is not None and not self._member:
            prompts = in_form(prompts, self._turn.answer_schema)
        for number in range(1, self._turn.limits.max_turns + 1):
            left = self._turn.limits.max_turns - number
            step = model_step(self._path, number)
            completion = await self._turn.complete(
                self._config,
                prompts,
                tools=self._tools,
                must_answer=bool(self._tools) and (left == 0 or not self._turn.may_call_tools),
                step=step,
                member=self._member,
            )
            if not completion.tool_calls or (left == 0 and completion.text.strip()):
                return completion.text
            if not self._tools:
                raise Internal(
                    f"the model of {self._config.metadata.name} calls tools, and was given none",
                    reason="MODEL_BAD_RESPONSE",
                    metadata={"model": self._config.metadata.name},
                )
            if left == 0:
                break
            prompts.append(
                Prompt(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
            )
            calls = [
                self._call(call, call_step(step, position))
                for position, call in enumerate(completion.tool_calls, start=1)
            ]
            prompts.extend(await together(calls))
        raise LimitReached(
            f"{self._member or 'the team'} had {self._turn.limits.max_turns} model calls (limits.maxTurns) "
            "and still asks for tools",
            reason="RUN_LIMIT_REACHED",
            metadata={"limit": "maxTurns", "value": str(self._turn.limits.max_turns)},
        )

    async def _call(self, call: ToolCall, call_id: str) -> Prompt:
        turn = self._turn
        finished = turn.recorded.results.get(call_id)
        if finished is not None:
            return self._called_before(call, finished.step)
        begun = call_id in turn.recorded.calls  # by an earlier attempt, which has counted it
        allowed = begun or turn.count_tool_call()
        try:
            ability, arguments = self._understand(call)
        except BadArguments as error:
            self._log_start(call, call_id, {}, begun=begun)
            return self._refused(call, call_id, error)
        if not (begun and ability.resumes):
            self._log_start(call, call_id, arguments, begun=begun)
        if not allowed:
            limit = turn.limits.max_tool_calls
            result = f"Refused: the run has had its {limit} tool calls. Answer with what you have."
        else:
            key = f"{turn.log.run}/{call_id}"
            invocation = Invocation(call_id=call_id, idempotency_key=key, arguments=arguments)
            try:
                result = await self._make(ability, invocation)
            except BadArguments as error:
                return self._refused(call, call_id, error)
            except ServiceError as error:
                turn.log.emit(ToolCallFinished(call_id=call_id, result="", error=error), member=self._member)
                raise
        if len(result) > RESULT_LIMIT:
            result = result[: RESULT_LIMIT - 40] + "\n[cut: the result was longer]"
        turn.log.emit(ToolCallFinished(call_id=call_id, result=result), member=self._member)
        if allowed and ability.side_effects:
            await turn.log.flush()
        return Prompt(role="tool", content=result, tool_call_id=call.id)

    async def _make(self, ability: Ability, invocation: Invocation) -> str:
        if ability.resumes:
            return await ability.call(invocation)
        if ability.side_effects:
            await self._turn.log.flush()
        with self._turn.stages.stage("tool"):
            return await ability.call(invocation)

    def _called_before(self, call: ToolCall, finished: ToolCallFinished) -> Prompt:
        """What an earlier attempt's call came to."""
        if finished.error is None:
            return Prompt(role="tool", content=finished.result, tool_call_id=call.id)
        if not finished.result:
            raise finished.error
        return self._correction(call, BadArguments(finished.result))

    def _log_start(self, call: ToolCall, call_id: str, arguments: Arguments, *, begun: bool) -> None:
        attempt = self._turn.attempt if begun else 1
        self._turn.log.emit(
            ToolCallStarted(call_id=call_id, tool=call.name, arguments=arguments, attempt=attempt),
            member=self._member,
        )

    def _understand(self, call: ToolCall) -> tuple[Ability, Arguments]:
        ability = self._abilities.get(call.name)
        if ability is None:
            raise BadArguments(f"There is no tool {call.name!r}; there are: {', '.join(self._abilities)}.")
        try:
            # Stricter than json.loads: what the log cannot hold (NaN, half a surrogate pair) is refused.
            arguments = msgspec.json.decode(call.arguments or "{}")
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise BadArguments(f"The arguments of {call.name} are not valid JSON ({error}).") from error
        if not isinstance(arguments, dict):
            raise BadArguments(f"The arguments of {call.name} must be a JSON object.")
        return ability, arguments

    def _refused(self, call: ToolCall, call_id: str, error: BadArguments) -> Prompt:
        failure: ServiceError = Internal(
            str(error), reason="MODEL_BAD_RESPONSE", metadata={"tool": call.name}
        )
        self._turn.log.emit(
            ToolCallFinished(call_id=call_id, result=str(error), error=failure), member=self._member
        )
        return self._correction(call, error)

    def _correction(self, call: ToolCall, error: BadArguments) -> Prompt:
        """Tells the model what was wrong, so often; then it is the model that is wrong."""
        self._bad_calls += 1
        if self._bad_calls >= _MAX_BAD_CALLS:
            raise Internal(
                f"the model of {self._config.metadata.name} called tools wrongly {self._bad_calls} times: "
                f"{error}",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": self._config.metadata.name},
            )
        return Prompt(role="tool", content=f"Error: {error} Correct the call.", tool_call_id=call.id)


def text_argument(arguments: Arguments, name: str) -> str:
    """A text that the model must pass. Raises BadArguments."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadArguments(f"The argument {name!r} is required and must be a text.")
    return value.strip()
