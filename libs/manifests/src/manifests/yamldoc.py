"""YAML documents as plain data that remembers its lines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_VALUES = 20_000
MAX_DEPTH = 32

# A line that begins with --- ends a document even inside a block text (YAML 1.2, c-forbidden), so that
# cutting here lets each document fail alone.
_MARKER = re.compile(r"^---(?=[ \t\r\n]|$)", re.MULTILINE)

_TYPES = {"str", "int", "float", "bool", "null", "map", "seq"}
_PREFIX = "tag:yaml.org,2002:"


class YamlError(Exception):
    """A document that cannot be read. `line` is 1-based within the text that was given."""

    def __init__(self, message: str, line: int, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.fix = fix


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe; dates stay text, as they do in Kubernetes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != _PREFIX + "timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(slots=True)
class Document:
    """One document: plain data, and the line on which each value begins."""

    data: Any
    first_line: int
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)

    def line(self, at: tuple[str | int, ...]) -> int:
        """The line of a value, or of the closest object around it."""
        for length in range(len(at), -1, -1):
            if at[:length] in self.lines:
                return self.lines[at[:length]]
        return self.first_line


def split(text: str) -> Iterator[tuple[int, str]]:
    """The documents of a text with the 0-based line on which each begins."""
    starts = [0, *(m.start() for m in _MARKER.finditer(text))]
    for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if begin != end:
            yield text.count("\n", 0, begin), text[begin:end]


def parse(text: str, line_offset: int = 0) -> Document | None:
    """Reads one document; None if it holds nothing but comments.

    Raises:
        YamlError: It is no YAML, or YAML of a kind that manifests do not use.
    """
    try:
        nodes = [n for n in yaml.compose_all(text, Loader=_Loader) if n is not None]
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = line_offset + (mark.line if mark else 0) + 1
        raise YamlError(f"not valid YAML: {exc.problem or exc.context}", line, _yaml_fix(exc)) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        # Characters that YAML forbids have no mark but a position.
        position = getattr(exc, "position", 0)
        line = line_offset + text.count("\n", 0, position if isinstance(position, int) else 0) + 1
        what = "nested too deeply" if isinstance(exc, RecursionError) else getattr(exc, "reason", str(exc))
        raise YamlError(f"not valid YAML: {what}", line) from exc
    if not nodes:
        return None
    if len(nodes) > 1:
        raise YamlError(
            "a second document without '---' before it", line_offset + nodes[1].start_mark.line + 1
        )
    first_line = line_offset + nodes[0].start_mark.line + 1
    builder = _Builder(text, line_offset)
    document = Document(builder.build(nodes[0], (), 0), first_line, builder.lines)
    document.lines[()] = first_line
    return None if document.data is None else document


def _yaml_fix(exc: yaml.MarkedYAMLError) -> str:
    text = str(exc)
    if "\\t" in text or "'\t'" in text or "cannot start any token" in text:
        return "indent with spaces, not tabs, and put text with special characters in quotes"
    if "mapping values are not allowed" in text:
        return "check the indentation, and put text with ': ' in quotes"
    return "check the indentation and the quotes of this line and the one before"


class _Builder:
    """Turns nodes into plain data. Counts, because aliases can make a small file an immense tree."""

    def __init__(self, text: str, line_offset: int) -> None:
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._offset = line_offset
        self._values = 0
        self._scalars = _Loader("")

    def build(self, node: yaml.Node, at: tuple[str | int, ...], depth: int) -> Any:
        line = self._line(node)
        self._values += 1
        if self._values > MAX_VALUES:
            raise YamlError(
                f"more than {MAX_VALUES} values in a document", line, "split it, or use fewer aliases"
            )
        if depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} levels deep", line)
        if node.tag.removeprefix(_PREFIX) not in _TYPES:
            raise YamlError(f"the YAML tag {node.tag} is not supported", line, "remove the tag")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at, depth)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, child in enumerate(node.value):
                self.lines[(*at, index)] = self._line(child)
                items.append(self.build(child, (*at, index), depth + 1))
            return items
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            raise YamlError(f"not a value: {node.value[:40]!r}", line, "put it in quotes") from exc

    def _mapping(self, node: yaml.MappingNode, at: tuple[str | int, ...], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, child in node.value:
            line = self._line(key_node)
            if key_node.tag == _PREFIX + "merge":
                raise YamlError("YAML merge keys (<<) are not supported", line, "write the fields out")
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError("a key must be text", line, "put text with braces or brackets in quotes")
            key = key_node.value
            if key in result:
                raise YamlError(f'the key "{key}" is there twice', line, "remove one")
            self.lines[(*at, key)] = line
            result[key] = self.build(child, (*at, key), depth + 1)
        return result

    def _line(self, node: yaml.Node) -> int:
        return int(self._offset + node.start_mark.line + 1)
