"""Every example with a golden history runs as that says, and goes on from anywhere in it."""

import pytest

from tests.support import scenes_modes, scenes_tools, scenes_workflow
from tests.support.golden import GOLDEN, Scene, compare, cut_anywhere, golden_events, play

pytestmark = pytest.mark.looptime

SCENES = [*scenes_modes.SCENES, *scenes_workflow.SCENES, *scenes_tools.SCENES]


@pytest.fixture(params=SCENES, ids=lambda scene: scene.name)
def scene(request: pytest.FixtureRequest) -> Scene:
    found: Scene = request.param
    return found


async def test_an_example_runs_as_its_golden_history_says(scene: Scene) -> None:
    played = await play(scene)
    compare(scene, played.events)


async def test_a_golden_history_goes_on_from_anywhere_without_doing_a_step_again(scene: Scene) -> None:
    await cut_anywhere(scene, golden_events(scene))


async def test_leaders_that_must_call_a_tool_may_answer_after_it() -> None:
    choices = {}
    for scene in scenes_modes.SCENES:
        asked = [request.body for request in (await play(scene)).asked]
        leader = [body for body in asked if body["messages"][0]["content"].startswith("You lead a team")]
        choices[scene.name] = [body.get("tool_choice", "") for body in leader]
    assert choices["route"] == ["required"]
    assert choices["tasks"] == ["required", "auto", "auto"]
    assert choices["coordinate"] == ["auto", "auto", "auto"]
    assert choices["broadcast"] == [""]


def test_every_golden_file_has_its_scene() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {scene.name for scene in SCENES}
