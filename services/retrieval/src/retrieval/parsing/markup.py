"""Markdown, reStructuredText and HTML to sections by heading."""

import re
from html.parser import HTMLParser

from retrieval.core.chunking import Section

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_RST_RULE = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}[ \t]*")
_SKIPPED = {"script", "style", "template", "noscript", "svg", "head"}
_BLOCKS = {
    *("p", "div", "section", "article", "header", "footer", "main", "nav", "aside", "ul", "ol", "dl"),
    *("li", "dt", "dd", "table", "tr", "pre", "blockquote", "figure", "figcaption", "form", "br", "hr"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


class _Outline:
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
    outline = _Outline()
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
    outline = _Outline()
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


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.outline = _Outline()
        self._skipping = 0
        self._preformatted = 0
        self._title: list[str] | None = None
        self._line: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping += 1
        elif tag in _HEADINGS:
            self._end_line()
            self._title = []
        elif tag in _BLOCKS:
            self._end_line()
            self._preformatted += tag == "pre"
        elif tag in ("td", "th"):
            self._line.append(" | " if self._line else "")
        for name, value in attrs:
            if tag == "img" and name == "alt" and value:
                self.handle_data(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:  # <script/> has no end to wait for
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        elif tag in _HEADINGS and self._title is not None:
            title = " ".join("".join(self._title).split())
            self._title = None
            if title:
                self.outline.heading(_HEADINGS[tag], title, [f"{title}\n"])
        elif tag in _BLOCKS:
            self._end_line()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))
            if tag in ("p", "table", "ul", "ol", "pre", "blockquote"):
                self.outline.line("\n")

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._title is not None:
            self._title.append(data)
        else:
            self._line.append(data)

    def finish(self) -> list[Section]:
        self.close()
        if self._title:
            self._line = self._title
        self._end_line()
        self.outline.end()
        return self.outline.sections

    def _end_line(self) -> None:
        text = "".join(self._line)
        if not self._preformatted:
            text = " ".join(text.split())
        if text.strip():
            self.outline.line(f"{text}\n")
        self._line = []


def html(text: str) -> list[Section]:
    """Visible text by h1 to h6, tolerant of unclosed tags."""
    parser = _Html()
    parser.feed(text)
    return parser.finish()
