"""Files of manifests to objects and problems."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from manifests.base import API_VERSION, DEFAULT_NAMESPACE
from manifests.knowledge import KnowledgeBase
from manifests.model import ModelConfig
from manifests.problems import Finding, Problem, closest, findings, place, shown
from manifests.team import AgentTeam
from manifests.yamldoc import Document, YamlError, parse, split

MAX_FILE_BYTES = 1 << 20

Resource = AgentTeam | KnowledgeBase | ModelConfig
Key = tuple[str, str, str]
"""Kind, namespace, name."""

KINDS: Mapping[str, type[AgentTeam] | type[KnowledgeBase] | type[ModelConfig]] = {
    "ModelConfig": ModelConfig,
    "KnowledgeBase": KnowledgeBase,
    "AgentTeam": AgentTeam,
}
"""In the order in which they depend on one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedObject:
    """A valid object and where it came from."""

    resource: Resource
    path: Path
    lines: Mapping[tuple[str | int, ...], int]
    """The line of each field, by its path."""

    @property
    def key(self) -> Key:
        metadata = self.resource.metadata
        return (self.resource.kind, metadata.namespace, metadata.name)

    @property
    def line(self) -> int:
        return self.lines[()]

    def line_of(self, *at: str | int) -> int:
        """The line of a field, or of the closest object around it."""
        return Document(None, self.line, dict(self.lines)).line(at)


@dataclass(slots=True, kw_only=True)
class FileContent:
    """What a file holds."""

    objects: list[LoadedObject] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    invalid: set[Key] = field(default_factory=set)
    """Objects that are named in the file but wrong."""
    unidentified: bool = False
    """Some document is so broken that nobody can tell which object it is."""


def load_file(path: Path) -> FileContent:
    """Reads a file. Never raises: what is wrong with the file itself is a problem too."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            return _unreadable(path, f"larger than {MAX_FILE_BYTES >> 10} KiB", "split it into several files")
        text = raw.decode("utf-8-sig")
    except OSError as exc:
        return _unreadable(path, f"cannot be read: {exc.strerror}", "check the path and its permissions")
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        return _unreadable(path, "is not UTF-8", "save it as UTF-8", line)
    return load_text(text, path)


def _unreadable(path: Path, message: str, fix: str, line: int = 1) -> FileContent:
    problem = Problem(path=path, line=line, field="", message=message, fix=fix)
    return FileContent(problems=[problem], unidentified=True)


def load_text(text: str, path: Path) -> FileContent:
    """Reads the documents of a file. A bad one does not stop the others."""
    content = FileContent()
    for offset, part in split(text):
        try:
            document = parse(part, offset)
        except YamlError as exc:
            content.problems.append(
                Problem(path=path, line=exc.line, field="", message=exc.message, fix=exc.fix)
            )
            content.unidentified = True
            continue
        if document is not None:
            _load_document(document, path, content)
    return content


def load_data(data: Any, path: Path) -> FileContent:
    """Reads an object that is parsed already, such as one of the API server."""
    content = FileContent()
    _load_document(Document(data, 1, {(): 1}), path, content)
    return content


def _load_document(document: Document, path: Path, content: FileContent) -> None:
    key = _key_of(document.data)
    name = f"{key[0]} {key[1]}/{key[2]}" if key else ""

    def refuse(*found: Finding) -> None:
        content.problems.extend(place(path, document.line(f.at), f, name) for f in found)
        if key:
            content.invalid.add(key)
        else:
            content.unidentified = True

    header = _header_finding(document.data)
    if header is not None:
        refuse(header)
        return
    model = KINDS[document.data["kind"]]
    try:
        # By way of JSON: lists become tuples there, while numbers in quotes stay refused.
        resource = model.model_validate_json(json.dumps(document.data))
    except ValidationError as exc:
        # A rule is checked on the model: without an input of our own pydantic would show the parsed one.
        refuse(*findings(model, exc.errors(include_url=False)))
        return
    loaded = LoadedObject(resource=resource, path=path, lines=document.lines)
    earlier = next((o for o in content.objects if o.key == loaded.key), None)
    if earlier is not None:
        content.problems.append(duplicate(loaded, earlier))
        return
    content.objects.append(loaded)


def duplicate(second: LoadedObject, first: LoadedObject) -> Problem:
    """Two documents with one name: the first one counts."""
    kind, namespace, name = second.key
    return Problem(
        path=second.path,
        line=second.line_of("metadata", "name"),
        field="metadata.name",
        message=f"{kind} {namespace}/{name} is in {first.path}:{first.line} already, "
        "which is the one that counts",
        fix="rename or remove one of them",
        object=f"{kind} {namespace}/{name}",
    )


def _key_of(data: Any) -> Key | None:
    """Which object a document is about, however wrong the rest of it is."""
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        return None
    kind, name = data.get("kind"), data["metadata"].get("name")
    namespace = data["metadata"].get("namespace", DEFAULT_NAMESPACE)
    if isinstance(kind, str) and isinstance(name, str) and isinstance(namespace, str):
        return (kind, namespace, name)
    return None


def _header_finding(data: Any) -> Finding | None:
    """What is wrong with apiVersion and kind: without them nothing else can be checked."""
    if not isinstance(data, dict):
        return Finding(
            at=(), message="must be an object with apiVersion, kind, metadata and spec", value=shown(data)
        )
    for header, choices in (("apiVersion", [API_VERSION]), ("kind", list(KINDS))):
        value = data.get(header)
        if header not in data:
            meant = next((k for k in data if closest(k, [header])), None)
            fix = f'"{meant}" should be "{header}"' if meant else f'add "{header}: {choices[0]}"'
            return Finding(at=(meant,) if meant else (), message=f'"{header}" is required', fix=fix)
        if value not in choices:
            meant = closest(value, choices) if isinstance(value, str) else None
            return Finding(
                at=(header,),
                message=f"must be {choices[0]}"
                if len(choices) == 1
                else f"must be one of {', '.join(choices)}",
                value=shown(value),
                fix=f'did you mean "{meant}"?' if meant else "",
            )
    return None
