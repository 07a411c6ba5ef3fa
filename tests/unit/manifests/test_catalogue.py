"""The catalogue: references, last good versions, changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from manifests import Catalogue
from manifests import catalogue as catalogue_module

HEAD = "apiVersion: agentteams.dev/v1alpha1\n"
CHAT = HEAD + "kind: ModelConfig\nmetadata: {name: chat}\nspec: {type: Chat, provider: BuiltIn}\n"
EMBED = HEAD + "kind: ModelConfig\nmetadata: {name: embed}\nspec: {type: Embedding, provider: BuiltIn}\n"
DOCS = (
    HEAD + "kind: KnowledgeBase\nmetadata: {name: docs}\nspec: {embedding: {modelConfigRef: {name: embed}}}\n"
)
TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: team}
spec:
  modelConfigRef: {name: chat}
  members:
  - {name: solo, knowledge: [docs]}
  knowledge:
  - {name: docs, knowledgeBaseRef: {name: docs}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(f"{CHAT}---\n{EMBED}")
    (tmp_path / "docs.yaml").write_text(DOCS)
    (tmp_path / "team.yaml").write_text(TEAM)
    return tmp_path


def loaded(folder: Path) -> Catalogue:
    catalogue = Catalogue(folder)
    catalogue.load()
    return catalogue


def test_finds_objects_by_namespace_and_name(folder: Path) -> None:
    (folder / "other.yml").write_text(TEAM.replace("{name: team}", "{name: team, namespace: team-b}"))
    catalogue = loaded(folder)
    assert [t.metadata.name for t in catalogue.teams("default")] == ["team"]
    assert [m.metadata.name for m in catalogue.models("default")] == ["chat", "embed"]
    assert [k.metadata.name for k in catalogue.knowledge_bases("default")] == ["docs"]
    assert catalogue.team("default", "team") is not None
    assert catalogue.team("team-b", "team") is not None
    assert catalogue.team("team-c", "team") is None
    assert catalogue.model("default", "docs") is None
    assert catalogue.team_problems("default", "team") == []
    # The other namespace has no models: a reference does not cross namespaces.
    assert catalogue.team_problems("team-b", "team") == [
        'spec.modelConfigRef.name: no ModelConfig "chat" in namespace "team-b"; apply that ModelConfig',
        'spec.knowledge[0].knowledgeBaseRef.name: no KnowledgeBase "docs" in namespace "team-b"; '
        "apply that KnowledgeBase",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "modelConfigRef: {name: chat}",
            "modelConfigRef: {name: chatt}",
            'team.yaml:5: spec.modelConfigRef.name: no ModelConfig "chatt" in namespace "default"; '
            'did you mean "chat"?',
        ),
        (
            "modelConfigRef: {name: chat}",
            "modelConfigRef: {name: embed}",
            'team.yaml:5: spec.modelConfigRef.name: ModelConfig "embed" has type Embedding, and Chat is '
            "needed here; name a ModelConfig of type Chat",
        ),
        (
            "{name: solo,",
            "{name: solo, modelConfigRef: {name: zzz},",
            'team.yaml:7: spec.members[0].modelConfigRef.name: no ModelConfig "zzz" in namespace "default"; '
            "apply that ModelConfig, or name one that is there: chat, embed",
        ),
        (
            "knowledgeBaseRef: {name: docs}",
            "knowledgeBaseRef: {name: doc}",
            'team.yaml:9: spec.knowledge[0].knowledgeBaseRef.name: no KnowledgeBase "doc" in namespace '
            '"default"; did you mean "docs"?',
        ),
    ],
)
def test_a_team_with_a_missing_reference_is_loaded_but_not_ready(
    folder: Path, old: str, new: str, problem: str
) -> None:
    assert old in TEAM
    (folder / "team.yaml").write_text(TEAM.replace(old, new))
    catalogue = loaded(folder)
    assert catalogue.team("default", "team") is not None
    assert [str(p) for p in catalogue.problems] == [f"{folder}/{problem}"]
    assert catalogue.team_problems("default", "team") == [problem.partition(": ")[2]]


def test_a_team_is_not_ready_when_its_knowledge_base_is_not(folder: Path) -> None:
    (folder / "docs.yaml").write_text(DOCS.replace("embed}", "chat}"))
    catalogue = loaded(folder)
    assert catalogue.team_problems("default", "team") == [
        'KnowledgeBase default/docs spec.embedding.modelConfigRef.name: ModelConfig "chat" has type Chat, '
        "and Embedding is needed here; name a ModelConfig of type Embedding"
    ]


def test_becomes_ready_when_what_was_missing_comes(folder: Path) -> None:
    (folder / "docs.yaml").unlink()
    catalogue = loaded(folder)
    assert catalogue.team_problems("default", "team")
    (folder / "docs.yaml").write_text(DOCS)
    assert catalogue.load()
    assert catalogue.team_problems("default", "team") == []
    assert catalogue.problems == []


@pytest.mark.parametrize(
    "broken",
    [TEAM.replace("{name: solo,", "{nam: solo,"), TEAM + "  x: [\n", "\x00", HEAD + "kind: AgentTeam\n", "é"],
    ids=["invalid field", "no YAML", "control character", "no name", "not UTF-8"],
)
def test_last_good_version_keeps_serving(folder: Path, broken: str) -> None:
    catalogue = loaded(folder)
    before = catalogue.team("default", "team")
    (folder / "team.yaml").write_bytes(broken.encode("latin-1"))
    assert catalogue.load()
    assert catalogue.team("default", "team") is before
    assert {p.path.name for p in catalogue.problems} == {"team.yaml"}
    # A second bad version does not wear the good one out.
    (folder / "team.yaml").write_text(TEAM.replace("members", "memberz"))
    catalogue.load()
    assert catalogue.team("default", "team") is before
    (folder / "team.yaml").write_text(TEAM.replace("{name: solo,", "{name: solo, role: clerk,"))
    catalogue.load()
    after = catalogue.team("default", "team")
    assert before is not None
    assert after is not None
    assert after.revision != before.revision
    assert catalogue.problems == []


def test_a_removed_document_goes_even_beside_a_broken_one(folder: Path) -> None:
    catalogue = loaded(folder)
    (folder / "models.yaml").write_text(EMBED.replace("type: Embedding", "type: Embeding"))
    catalogue.load()
    assert catalogue.model("default", "chat") is None
    assert catalogue.model("default", "embed") is not None
    (folder / "models.yaml").unlink()
    catalogue.load()
    assert catalogue.model("default", "embed") is None


def test_a_file_that_is_wrong_from_the_start_serves_nothing(folder: Path) -> None:
    (folder / "team.yaml").write_text(TEAM.replace("members", "memberz"))
    catalogue = loaded(folder)
    assert catalogue.team("default", "team") is None
    assert catalogue.team_problems("default", "team") == []
    assert catalogue.problems


def test_names_taken_in_two_files(folder: Path) -> None:
    (folder / "z.yaml").write_text(CHAT.replace("BuiltIn}", "BuiltIn, limits: {maxRetries: 9}}"))
    catalogue = loaded(folder)
    chat = catalogue.model("default", "chat")
    assert chat is not None
    assert chat.spec.limits.max_retries == 2
    assert [str(p) for p in catalogue.problems] == [
        f"{folder}/z.yaml:3: metadata.name: ModelConfig default/chat is in {folder}/models.yaml:1 already, "
        "which is the one that counts; rename or remove one of them"
    ]


def test_large_and_unreadable_files_are_problems_of_their_own(folder: Path) -> None:
    (folder / "large.yaml").write_text("# " + "x" * (1 << 20))
    (folder / "folder.yaml").mkdir()
    (folder / "dangling.yaml").symlink_to(folder / "nowhere")
    catalogue = loaded(folder)
    assert catalogue.team("default", "team") is not None
    assert [(p.path.name, p.message) for p in catalogue.problems] == [
        ("dangling.yaml", "cannot be read: No such file or directory"),
        ("folder.yaml", "cannot be read: Is a directory"),
        ("large.yaml", "larger than 1024 KiB"),
    ]


def test_too_many_files_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "MAX_FILES", 2)
    catalogue = loaded(folder)
    assert catalogue.team("default", "team") is None
    assert [p.path.name for p in catalogue.problems if "not read" in p.message] == ["team.yaml"]


def test_hidden_and_other_files_are_not_read(folder: Path) -> None:
    (folder / ".team.yaml.tmp.yaml").write_text("kind: [")
    (folder / "notes.txt").write_text("kind: [")
    assert loaded(folder).problems == []


def test_a_missing_folder_is_a_problem_and_not_an_empty_catalogue(folder: Path) -> None:
    catalogue = loaded(folder)
    away = folder.with_name("away")
    folder.rename(away)
    assert catalogue.load()
    assert not catalogue.load()
    assert catalogue.team("default", "team") is not None
    assert [p.message for p in catalogue.problems] == [
        "the folder of manifests cannot be read: No such file or directory"
    ]
    away.rename(folder)
    assert catalogue.load()
    assert catalogue.problems == []


def test_nothing_is_done_when_nothing_changed(folder: Path) -> None:
    catalogue = loaded(folder)
    team = catalogue.team("default", "team")
    assert not catalogue.load()
    assert catalogue.team("default", "team") is team


@contextlib.asynccontextmanager
async def watching(catalogue: Catalogue) -> AsyncIterator[None]:
    task = asyncio.create_task(catalogue.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    # The catalogue has no event to wait for; the deadline is what fails the test.
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("force_polling", [False, True])
async def test_watch_follows_changes(folder: Path, force_polling: bool) -> None:
    catalogue = Catalogue(folder, force_polling=force_polling)
    async with watching(catalogue):
        await until(lambda: catalogue.team("default", "team") is not None)
        temporary = folder / ".new.tmp"
        temporary.write_text(TEAM.replace("{name: team}", "{name: second}"))
        temporary.rename(folder / "second.yaml")
        await until(lambda: catalogue.team("default", "second") is not None)
        (folder / "second.yaml").write_text("kind: [")
        await until(lambda: bool(catalogue.problems))
        assert catalogue.team("default", "second") is not None
        (folder / "second.yaml").unlink()
        await until(lambda: catalogue.team("default", "second") is None)
        assert catalogue.problems == []


async def test_watch_waits_for_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "MISSING_FOLDER_S", 0.02)
    catalogue = Catalogue(tmp_path / "later")
    async with watching(catalogue):
        await until(lambda: bool(catalogue.problems))
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "chat.yaml").write_text(CHAT)
        await until(lambda: catalogue.model("default", "chat") is not None)
        assert catalogue.problems == []
