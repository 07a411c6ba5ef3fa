"""Markdown and reStructuredText to sections by heading."""

import re

from retrieval.core.chunking import Section

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_RST_RULE = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}[ \t]*")


class Outline:
    """Collects lines into sections under the headings that are open."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self._open: list[tuple[int, str]] = []
        self._lines: list[str] = []
        self._heading_only = False

    def heading(self, level: int, title: str, lines: list[str]) -> None:
        self.end()
        self._open = [(other, text) for other, text in self._open if other < level] + [(level, title)]
        self._lines = lines
        self._heading_only = True

    def line(self, line: str) -> None:
        self._lines.append(line)
        if line.strip():
            self._heading_only = False

    def end(self) -> None:
        if self._lines:
            headings = tuple(title for _, title in self._open if title)
            self.sections.append(
                Section(text="".join(self._lines), headings=headings, heading_only=self._heading_only)
            )
        self._lines = []
        self._heading_only = False


def markdown(text: str) -> list[Section]:
    """By # and underlined headings; nothing inside a code fence is a heading."""
    outline = Outline()
    lines = text.splitlines(keepends=True)
    fence = ""
    index = 0
    if lines and lines[0].strip() == "---":  # front matter: kept as text, but no heading in it
        end = next((i for i, line in enumerate(lines[1:50], 1) if line.strip() == "---"), -1)
        for line in lines[: end + 1]:
            outline.line(line)
        index = end + 1
    while index < len(lines):
        line = lines[index]
        bare = line.rstrip("\n")
        following = lines[index + 1].rstrip("\n") if index + 1 < len(lines) else ""
        index += 1
        mark = _FENCE.match(line)
        if fence:
            outline.line(line)
            if mark and mark[1].startswith(fence) and not bare.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
            outline.line(line)
        elif atx := _ATX.fullmatch(bare):
            outline.heading(len(atx[1]), atx[2] or "", [line])
        elif _is_setext_title(bare) and (rule := _SETEXT.fullmatch(following)):
            outline.heading(1 if rule[1][0] == "=" else 2, bare.strip(), [line, lines[index]])
            index += 1
        else:
            outline.line(line)
    outline.end()
    return outline.sections


def _is_setext_title(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(("|", ">", "-", "*", "+", "    "))


def restructured(text: str) -> list[Section]:
    """By underlined titles; the order in which the rules' characters appear gives the levels."""
    outline = Outline()
    levels: list[str] = []
    lines = text.splitlines(keepends=True)
    index = 0
    while index < len(lines):
        bare = lines[index].rstrip("\n")
        rest = [line.rstrip("\n") for line in lines[index + 1 : index + 3]] + ["", ""]
        over = _RST_RULE.fullmatch(bare)
        if over and rest[0].strip() and rest[1].rstrip() == bare.rstrip():
            style, title, count = bare[0] * 2, rest[0].strip(), 3
        elif bare.strip() and not over and not bare[0].isspace() and _underlines(rest[0], bare):
            style, title, count = rest[0][0], bare.strip(), 2
        else:
            outline.line(lines[index])
            index += 1
            continue
        if style not in levels:
            levels.append(style)
        outline.heading(levels.index(style) + 1, title, lines[index : index + count])
        index += count
    outline.end()
    return outline.sections


def _underlines(rule: str, title: str) -> bool:
    return bool(_RST_RULE.fullmatch(rule)) and len(rule.rstrip()) >= len(title.rstrip())
