"""Tasks: a leader writes a list of tasks, members work off what is ready, the leader answers."""

import asyncio
from collections.abc import Sequence

from orchestrator.core import prompts
from orchestrator.core.agent import RESULT_LIMIT, Invocation
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members, told
from orchestrator.core.modes.leader import lead
from orchestrator.core.modes.task_list import Task, TaskList
from orchestrator.core.turn import Turn, together
from servicekit.errors import ServiceError


class Tasks:
    """A leader whose only tool adds tasks to a list, and returns when they are done.

    What it adds in one reply is worked on together. It may add more when it sees
    the results; the list, like every list of the run, is rebuilt from the log.
    """

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._members = members
        self._list = TaskList(turn)
        self._changed = asyncio.Event()

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The leader's answer. Raises as `modes.answer` says."""
        tool = prompts.tasks_tool(self._turn.team.spec.members)
        return await lead(self._turn, history, tool, self._add)

    async def _add(self, call: Invocation) -> str:
        tasks = self._list.of_call(call.call_id) or self._list.add(call.call_id, call.arguments)
        self._list.advance()
        await together([self._do(task) for task in tasks])
        room = RESULT_LIMIT // len(tasks) - 100
        return "\n\n".join(_result(task, room) for task in tasks)

    async def _do(self, task: Task) -> None:
        while task.state == "PENDING":
            await self._changed.wait()
        began = task.call_id in self._turn.recorded.member_starts  # by an earlier attempt, which counted it
        if task.state == "SKIPPED":
            return
        if began or self._turn.count_tool_call():
            try:
                task.result = await self._members.delegate(
                    task.member, task.text, call_id=task.call_id, needs=self._list.needs(task)
                )
                task.state = "DONE"
            except ServiceError as error:
                task.result, task.state = told(error), "FAILED"
        else:
            limit = self._turn.limits.max_tool_calls
            task.result, task.state = prompts.could_not(f"the run has had its {limit} tool calls"), "FAILED"
        self._list.advance()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _result(task: Task, room: int) -> str:
    text = task.result if len(task.result) <= room else f"{task.result[:room]} [cut]"
    match task.state:
        case "DONE":
            return f"Task {task.number} ({task.member.name}) is done: {text}"
        case "FAILED":
            return f"Task {task.number}: {task.member.name} {text}"
        case _:
            needed = ", ".join(map(str, task.depends_on))
            return f"Task {task.number} ({task.member.name}) was skipped: it depends on {needed}."
