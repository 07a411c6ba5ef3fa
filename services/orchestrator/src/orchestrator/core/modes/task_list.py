"""The task list of a team in mode Tasks: what is in it, what is ready, and how the log tells of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from manifests import Member
from orchestrator.core.arguments import Arguments, BadArguments
from orchestrator.core.members import member_named
from orchestrator.core.model import TasksChanged, TaskState, TeamTask
from orchestrator.core.prompts import ADD_TASKS
from orchestrator.core.recorded import parent, task_step
from orchestrator.core.turn import Turn

MAX_TASKS = 32  # of one list: a leader that adds more is not about to answer
_SHOWN_CHARS = 200  # of a task's text in each copy of the list; the whole is in the event that it began


@dataclass(slots=True, kw_only=True)
class Task:
    """One task. `number` is what the model calls it, `call_id` the delegation that does it."""

    number: int
    call_id: str
    member: Member
    text: str
    depends_on: tuple[int, ...]
    state: TaskState = "PENDING"
    result: str = ""


class TaskList:
    """The tasks of one turn, in the order in which they were added; at first those that the log holds."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._tasks: list[Task] = []
        self._told = turn.recorded.tasks.get(turn.path)
        self._restore()

    def of_call(self, call_id: str) -> list[Task]:
        """The tasks that a call has added already."""
        return [task for task in self._tasks if task.call_id == task_step(call_id, task.number)]

    def add(self, call_id: str, arguments: Arguments) -> list[Task]:
        """Adds the tasks of a call. Raises BadArguments: none is added."""
        given = arguments.get("tasks")
        if not isinstance(given, list) or not given:
            raise BadArguments("The argument 'tasks' is required and must be a list of tasks.")
        known = len(self._tasks)
        if known + len(given) > MAX_TASKS:
            raise BadArguments(f"There are {known} tasks, and at most {MAX_TASKS} may be: answer with those.")
        last = known + len(given)
        new = [
            self._read(call_id, number, fields, last=last) for number, fields in enumerate(given, known + 1)
        ]
        _refuse_cycles(new)
        self._tasks += new
        return new

    def needs(self, task: Task) -> list[str]:
        """The delegations whose reports a task needs."""
        return [self._tasks[number - 1].call_id for number in task.depends_on]

    def advance(self) -> None:
        """Says of each task that waits whether it is ready or will never be, and tells the log."""
        moved = True
        while moved:  # a task that is skipped skips those that depend on it
            moved = False
            for task in self._tasks:
                states = {self._tasks[number - 1].state for number in task.depends_on}
                if task.state == "PENDING" and states <= {"DONE", "FAILED", "SKIPPED"}:
                    task.state = "RUNNING" if states <= {"DONE"} else "SKIPPED"
                    moved = True
        self._tell()

    def _tell(self) -> None:
        turn = self._turn
        prefix = f"{turn.path}:" if turn.path else ""
        changed = TasksChanged(
            tasks=tuple(
                TeamTask(
                    id=f"{prefix}{task.number}",
                    text=task.text if len(task.text) <= _SHOWN_CHARS else f"{task.text[:_SHOWN_CHARS]} [cut]",
                    member=turn.event_member(task.member.name),
                    depends_on=tuple(f"{prefix}{number}" for number in task.depends_on),
                    state=task.state,
                )
                for task in self._tasks
            )
        )
        if changed != self._told:
            turn.log.emit(changed, member=turn.outer.member if turn.outer else "")
            self._told = changed

    def _read(self, call_id: str, number: int, fields: object, *, last: int) -> Task:
        where = f"Task {number}"
        if not isinstance(fields, dict):
            raise BadArguments(f"{where} must be an object with member, text and depends_on.")
        text = fields.get("text")
        if not isinstance(text, str) or not text.strip():
            raise BadArguments(f"{where}: 'text' is required and must be a text.")
        wanted = fields.get("depends_on") or []
        if not isinstance(wanted, list):
            raise BadArguments(f"{where}: 'depends_on' must be a list of task numbers.")
        for value in wanted:
            # Out of the log a number comes back as a float.
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or value not in range(1, last + 1)
            ):
                raise BadArguments(f"{where}: there is no task {value!r}; the tasks are 1 to {last}.")
        return Task(
            number=number,
            call_id=task_step(call_id, number),
            member=member_named(self._turn.team, fields.get("member")),
            text=text.strip(),
            depends_on=tuple(dict.fromkeys(int(value) for value in wanted)),
        )

    def _restore(self) -> None:
        recorded = self._turn.recorded
        for call_id, logged in recorded.calls.items():
            if logged.step.tool == ADD_TASKS and parent(call_id) == self._turn.path:
                with suppress(BadArguments):  # refused then as now
                    self.add(call_id, logged.step.arguments)
        for task in self._tasks:
            ended = recorded.member_ends.get(task.call_id)
            if ended is not None:
                task.state = "DONE" if ended.step.error is None else "FAILED"


def _refuse_cycles(new: Sequence[Task]) -> None:
    waiting = list(new)
    while waiting:
        numbers = {task.number for task in waiting}
        stuck = [task for task in waiting if numbers & set(task.depends_on)]
        if len(stuck) == len(waiting):
            circle = ", ".join(str(task.number) for task in stuck)
            raise BadArguments(f"Tasks {circle} wait for one another: one of them must depend on less.")
        waiting = stuck
