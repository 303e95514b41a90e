"""Parsing of the documentation: tables, code blocks and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

#: All documentation pages.
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block, and the last line of the text before it."""

    language: str
    code: str
    before: str


def get_page_name(page: Path) -> str:
    """Return the page's path relative to the project."""
    return str(page.relative_to(ROOT))


def get_section(page: Path, heading: str) -> str:
    """Return the text under a heading of the second level."""
    match = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert match, f"{get_page_name(page)} has no section {heading!r}"
    return match[1]


def list_sections(page: Path) -> dict[str, str]:
    """Return the sections of the second level by heading."""
    return {heading: get_section(page, heading) for heading in re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)}


def parse_table(text: str) -> dict[str, list[str]]:
    """Return the rows of the first table: the first cell, which must be code, mapped to the other cells."""
    rows: dict[str, list[str]] = {}
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("|---")), len(lines))
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert re.fullmatch(r"`[^`]+`", first), f"a row begins with {first}"
        assert first.strip("`") not in rows, f"{first} is there twice"
        rows[first.strip("`")] = others
    return rows


def list_code_blocks(page: Path, language: str | None = None) -> list[CodeBlock]:
    """Return the fenced blocks in order, all or those of one language."""
    text = page.read_text()
    blocks = [
        CodeBlock(match[1], match[2], text[: match.start()].rstrip().rpartition("\n")[2])
        for match in _FENCE.finditer(text)
    ]
    return [block for block in blocks if language in (None, block.language)]


def list_links(page: Path) -> Iterator[str]:
    """Yield the targets of the page's links, except those in code."""
    yield from _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text())))


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
