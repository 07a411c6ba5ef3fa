"""One agent: a model that answers, or asks for tools until it can."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from manifests import ModelConfig
from orchestrator.core.arguments import Arguments, BadArguments, read
from orchestrator.core.chat import Prompt, Tool, ToolCall
from orchestrator.core.context.assembly import complete
from orchestrator.core.guardrails.turns import screen_tool_result
from orchestrator.core.model import ToolApproval, ToolCallFinished, ToolCallStarted
from orchestrator.core.prompts import SEARCH, in_form, not_approved
from orchestrator.core.recorded import call_step, model_step
from orchestrator.core.tools import ToolFailed
from orchestrator.core.tracing import tool_span
from orchestrator.core.turn import LimitReached, Turn, together
from servicekit.errors import FailedPrecondition, Internal, ServiceError
from servicekit.spans import NoSpan, Span

RESULT_LIMIT = 16_000  # characters of a tool's result that a model is given, and the log keeps
_MAX_BAD_REPLIES = 3  # in a row, each with a call that was wrong or failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a tool.

    Attributes:
        call_id: Unique within the run, the same in every attempt.
        idempotency_key: Unique everywhere, the same in every attempt: what the
            tool calls can tell by it that the call was made before.
        arguments: What the model passed; they satisfy the tool's schema.
        member: Whose call it is; empty for the team itself.
    """

    call_id: str
    idempotency_key: str
    arguments: Arguments
    member: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A tool and what happens when it is called.

    Attributes:
        tool: What the model sees.
        call: Returns what the model is told. Raises BadArguments and ToolFailed, of which the model is
            told and which it may make good, and ServiceError, with which the agent fails.
        side_effects: That the call began is stored before it is made, and that
            it ended before anything else happens.
        resumes: It is made of steps of the run itself (a delegation): it measures
            its own stages, and an interrupted one goes on rather than begins again.
        needs_approval: It is not called before a person has allowed it.
    """

    tool: Tool
    call: Callable[[Invocation], Awaitable[str]]
    side_effects: bool = True
    resumes: bool = False
    needs_approval: bool = False


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
        self._bad_replies = 0
        self._failure: ServiceError | None = None  # of a call of the last reply

    async def answer(self, conversation: Sequence[Prompt]) -> str:
        """The agent's answer. Its last allowed model call may not ask for tools.

        Raises:
            LimitReached: The run's limits.
            ServiceError: The model cannot be had, or its tool calls fail again and again.
        """
        prompts = list(conversation)
        if self._turn.answer_schema is not None and not self._member:
            prompts = in_form(prompts, self._turn.answer_schema)
        for number in range(1, self._turn.limits.max_turns + 1):
            left = self._turn.limits.max_turns - number
            step = model_step(self._path, number)
            completion = await complete(
                self._turn,
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
            self._tools = [replace(tool, required=False) for tool in self._tools]
            prompts.append(
                Prompt(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
            )
            calls = [
                self._call(call, call_step(step, position))
                for position, call in enumerate(completion.tool_calls, start=1)
            ]
            self._failure = None
            prompts.extend(await together(calls))
            self._count_reply()
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
        lasting = call.name in self._abilities and self._abilities[call.name].resumes
        with tool_span(turn.log.run, call.name, call_id, lasting=lasting) as span:
            return await self._call_now(call, call_id, span)

    async def _call_now(self, call: ToolCall, call_id: str, span: Span | NoSpan) -> Prompt:
        turn = self._turn
        begun = call_id in turn.recorded.calls  # by an earlier attempt, which has counted it
        allowed = begun or turn.count_tool_call()
        try:
            ability, arguments = self._understand(call)
        except BadArguments as error:
            self._log_start(call, call_id, {}, begun=begun)
            return self._refused(call, call_id, error)
        refusal = ""
        if allowed and ability.needs_approval:
            refusal = await self._refusal(call.name, call_id, arguments)
        if not (begun and ability.resumes):
            self._log_start(call, call_id, arguments, begun=begun)
        if refusal:
            result = refusal
        elif not allowed:
            limit = turn.limits.max_tool_calls
            result = f"Refused: the run has had its {limit} tool calls. Answer with what you have."
        else:
            invocation = Invocation(
                call_id=call_id,
                idempotency_key=f"{turn.log.run}/{call_id}",
                arguments=arguments,
                member=self._member,
            )
            try:
                result = await self._make(ability, invocation)
            except (BadArguments, ToolFailed) as error:
                span.fail(error.error if isinstance(error, ToolFailed) else error)
                refused = self._refused(call, call_id, error)
                if ability.side_effects:
                    await turn.log.flush()
                return refused
            except ServiceError as error:
                turn.log.emit(ToolCallFinished(call_id=call_id, result="", error=error), member=self._member)
                raise
        if len(result) > RESULT_LIMIT:
            result = result[: RESULT_LIMIT - 40] + "\n[cut: the result was longer]"
        turn.log.emit(ToolCallFinished(call_id=call_id, result=result), member=self._member)
        if allowed and not refusal and ability.side_effects:
            await turn.log.flush()
        return Prompt(role="tool", content=result, tool_call_id=call.id)

    async def _refusal(self, tool: str, call_id: str, arguments: Arguments) -> str:
        """What the model is told if a person does not allow the call; empty if one does."""
        asked = ToolApproval(tool=tool, arguments=arguments)
        said = await self._turn.inputs.ask(call_id, asked, member=self._member)
        return "" if said.input.approved else not_approved(tool, said)

    async def _make(self, ability: Ability, invocation: Invocation) -> str:
        if ability.resumes:
            return await ability.call(invocation)
        if ability.side_effects:
            await self._turn.log.flush()
        with self._turn.stages.stage("tool"):
            try:
                result = await ability.call(invocation)
            except ToolFailed as failed:
                said = await self._screened(str(failed), invocation)
                if said == str(failed):
                    raise
                error = failed.error
                raise ToolFailed(
                    said, type(error)(said, reason=error.reason, metadata=error.metadata)
                ) from failed
            # A search's chunks were looked at one by one.
            return result if ability.tool.name == SEARCH else await self._screened(result, invocation)

    async def _screened(self, text: str, invocation: Invocation) -> str:
        return await screen_tool_result(self._turn, text, call_id=invocation.call_id, member=self._member)

    def _called_before(self, call: ToolCall, finished: ToolCallFinished) -> Prompt:
        """What an earlier attempt's call came to."""
        if finished.error is not None and not finished.result:
            raise finished.error
        self._failure = finished.error or self._failure
        return Prompt(role="tool", content=finished.result, tool_call_id=call.id)

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
        return ability, read(ability.tool, call.arguments)

    def _refused(self, call: ToolCall, call_id: str, why: BadArguments | ToolFailed) -> Prompt:
        """Tells the model what went wrong, so that it can do it right or do without."""
        if isinstance(why, ToolFailed):
            self._failure, told = why.error, f"Error: {why}"
        else:
            told = f"Error: {why} Correct the call."
            self._failure = Internal(str(why), reason="MODEL_BAD_RESPONSE", metadata={"tool": call.name})
        self._turn.log.emit(
            ToolCallFinished(call_id=call_id, result=told[:RESULT_LIMIT], error=self._failure),
            member=self._member,
        )
        return Prompt(role="tool", content=told[:RESULT_LIMIT], tool_call_id=call.id)

    def _count_reply(self) -> None:
        """After so many bad replies in a row the model is wrong, or the tool does not work."""
        failure = self._failure
        self._bad_replies = 0 if failure is None else self._bad_replies + 1
        if failure is None or self._bad_replies < _MAX_BAD_REPLIES:
            return
        if failure.reason == "MODEL_BAD_RESPONSE":
            model = self._config.metadata.name
            raise Internal(
                f"the model of {model} called tools wrongly {self._bad_replies} times: {failure.message}",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": model},
            )
        raise FailedPrecondition(
            f"the tool calls of {self._member or 'the team'} failed {self._bad_replies} times in a row: "
            f"{failure.message}",
            reason="TOOL_FAILED",
            metadata=failure.metadata,
        )


def text_argument(arguments: Arguments, name: str) -> str:
    """A text that the model must pass. Raises BadArguments."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadArguments(f"The argument {name!r} is required and must be a text.")
    return value.strip()
