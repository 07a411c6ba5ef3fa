"""The checker finds what it is there for: a history for each way to break a promise."""

import dataclasses
import re
from collections.abc import Callable

import pytest

from tests.chaos import validate as checker
from tests.chaos.history import Delta, History
from tests.chaos.planted import (
    FIRST,
    PLANTED,
    SESSION,
    a_stored_answer_is_asked_for_again,
    asked,
    change,
    forked,
    good,
    plain,
    waited,
)
from tests.chaos.validate import validate


def test_a_good_history_has_no_violation() -> None:
    assert validate(good()) == []


def test_a_fork_has_the_runs_of_its_source_and_no_violation() -> None:
    history = good()
    forked(history, 0, 1, 2, sequence=3)
    assert validate(history) == []


def test_a_run_that_was_told_what_it_asked_has_no_violation() -> None:
    history = good()
    waited(history, "office 7")
    assert validate(history) == []


def test_a_run_that_was_ended_may_say_so_after_its_text() -> None:
    history = good()
    history.answers.clear()
    history.model_calls.clear()
    content = "Room\n\n[The answer ends here: the run was cancelled]"
    events = plain(content, second=20)
    events[-1]["run_finished"] = {"state": "RUN_STATE_CANCELLED"}
    change(history, "runs/2", state="RUN_STATE_CANCELLED", events=events)
    last = history.sessions[SESSION][-1]
    history.sessions[SESSION][-1] = dataclasses.replace(last, content=content)
    history.streams[2].items[3:] = events[1:]
    assert validate(history) == []


def test_the_last_piece_may_be_lost_with_the_process_that_had_it() -> None:
    history = good()
    del history.streams[2].items[3]
    assert [violation.kind for violation in validate(history)] == ["text_differs"]
    change(history, "runs/2", attempt=2)
    assert validate(history) == []
    history.streams[2].items.insert(3, Delta(message="t1", offset=4, text=" 47"))
    assert validate(history) == []


def test_a_call_may_be_made_again_whose_answer_nobody_could_store() -> None:
    history = good()
    history.model_calls.insert(0, asked("b", "Room 4711.", at=19.5))
    history.model_calls.insert(0, asked("b", "", at=19.0, whole=False))
    assert validate(history) == []


def test_a_process_that_was_frozen_may_ask_once_more() -> None:
    history = good()
    a_stored_answer_is_asked_for_again(history)
    history.thawed.append(FIRST + 22.0)
    assert validate(history) == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_found(plant: Callable[[History], None]) -> None:
    history = good()
    plant(history)
    assert PLANTED[plant] in {violation.kind for violation in validate(history)}


def test_every_kind_of_violation_is_planted() -> None:
    documented = {
        kind
        for check in checker.CHECKS
        for kind in re.findall(r"\b[a-z]+_[a-z_]+\b|^overlap", (check.__doc__ or "").partition(":")[0])
    }
    assert documented == set(PLANTED.values())
