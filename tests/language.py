"""Measures of the language of the code: subjects of docstrings, banned words, names used twice, sizes of folders.

`python -m tests.language [ROOT]` prints them for a working tree.
"""

# ruff: noqa: T201 - a command that prints; a word list is easier to read as text

import ast
import collections
import functools
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# fmt: off
#: A text that begins with one of these names no subject.
_NO_SUBJECT = frozenset((
    "all", "another", "any", "anybody", "anything", "as", "both", "each", "either", "every", "everybody",
    "everything", "he", "her", "his", "how", "if", "it", "its", "neither", "nobody", "none", "nothing", "one",
    "others", "she", "so", "some", "somebody", "something", "such", "that", "theirs", "them", "these", "they",
    "this", "those", "what", "whatever", "when", "where", "whether", "which", "whichever", "who", "whoever", "whose",
    "why",
))
# fmt: on

#: A function's docstring that begins with one of these has no verb.
_NO_VERB = _NO_SUBJECT | frozenset(("a", "an", "the", "no", "not", "in", "of", "on", "for", "from", "with", "by", "at"))

#: Pronouns without a person, speech verbs for data, and predicates that leave the noun out.
BANNED = re.compile(
    r"\b(?:somebody|nobody|whoever|whatever|so many)\b"
    r"|\b(?:tells?|told|says?|said|heard)\b"
    r"|\b(?:is|are|was|were) none\b"
    r"|\bthe same\b(?=[.,;:)]|$|\s+(?:in|for|as|with|of|by|on|at|if|when|once|again|is|are)\b)"
    r"|(?:^|[.:;]\s+)(?:what|who)\b(?![^.]*\?)",
    re.IGNORECASE,
)


class Text(NamedTuple):
    """A docstring, comment, log message or description, and where it stands."""

    kind: str
    place: str
    text: str

    @property
    def first_word(self) -> str:
        return re.split(r"[^\w'-]", self.text.lstrip("`\"'(").lower(), maxsplit=1)[0]

    @property
    def has_subject(self) -> bool:
        """True if a docstring begins as its kind requires: functions with a verb, classes and modules with a noun."""
        if self.first_word == "the" and self.text.lower().startswith("the same"):
            return False
        return self.first_word not in (_NO_VERB if self.kind == "function" else _NO_SUBJECT)


def python_files(root: Path, *folders: str) -> list[Path]:
    """List the Python files below these folders, without migrations."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return [path for path in paths if "migrations" not in path.parts]


@functools.cache
def parse_module(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def read_docstrings(path: Path, root: Path) -> Iterator[Text]:
    """Yield the docstrings of a module; test functions and properties, which are nouns, count as classes do."""
    for node in ast.walk(parse_module(path)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        kind = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "noun"
        if kind == "function" and (_is_noun(node) or node.name.startswith("test_")):  # type: ignore[union-attr, arg-type]
            kind = "noun"
        yield Text(kind, f"{path.relative_to(root)}:{getattr(node, 'lineno', 1)}", text)


def _is_noun(node: ast.FunctionDef) -> bool:
    """Return whether a function is read as an attribute (a property) or requested by its name (a fixture)."""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(re.search(r"property|fixture|hybrid", name) for name in names)


def read_comments(path: Path, root: Path) -> Iterator[Text]:
    """Yield the comments of a module; lines of one comment are joined."""
    lines: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, text = token.start[0], token.string.lstrip("#: ")
        if lines and row == last + 1:
            lines.append(text)
        else:
            if lines:
                yield Text("comment", f"{path.relative_to(root)}:{begin}", " ".join(lines))
            lines, begin = [text], row
        last = row
    if lines:
        yield Text("comment", f"{path.relative_to(root)}:{begin}", " ".join(lines))


def read_messages(path: Path, root: Path) -> Iterator[Text]:
    """Yield the texts given to loggers, and to `help=` and `description=`."""
    for node in ast.walk(parse_module(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        arguments = [keyword.value for keyword in node.keywords if keyword.arg in ("help", "description", "epilog")]
        if re.search(r"\b_?log(?:ger)?\.(?:debug|info|warning|error|exception)$", called):
            arguments += [*node.args, *(keyword.value for keyword in node.keywords)]
        for value in arguments:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield Text("message", f"{path.relative_to(root)}:{value.lineno}", value.value.replace("_", " "))


#: Names of errors and of variables that hold the text of an error, a reason or a blocker.
_ERROR_TYPES = re.compile(
    r"(?:Error|Exception|Invalid\w*|Conflict|Busy|Disabled|Removed|NotFound|Problem|Finding|Blocker|Message|echo)$"
)
_ERROR_VARIABLES = frozenset(("message", "reason", "why", "detail", "problem", "remedy", "hint"))


def read_errors(path: Path, root: Path) -> Iterator[Text]:
    """Yield the texts of errors, reasons and blockers: with two spaces or more, as names and codes have none."""
    seen = set()
    for node in ast.walk(parse_module(path)):
        if isinstance(node, ast.Call):
            is_error = _ERROR_TYPES.search(ast.unparse(node.func)) is not None
        elif isinstance(node, ast.Assign):
            is_error = any(isinstance(target, ast.Name) and target.id in _ERROR_VARIABLES for target in node.targets)
        else:
            is_error = isinstance(node, ast.Raise | ast.Yield | ast.Return)
        for part in ast.walk(node) if is_error else ():
            if not isinstance(part, ast.Constant) or not isinstance(part.value, str) or part.value.count(" ") < 2:
                continue
            place = f"{path.relative_to(root)}:{part.lineno}"
            if place not in seen:
                seen.add(place)
                yield Text("error", place, part.value)


def read_pages(root: Path) -> Iterator[Text]:
    """Yield the paragraphs, table rows and comments of code of README, CONTRIBUTING, the docs and the Makefile."""
    pages = [root / "README.md", root / "CONTRIBUTING.md", root / "Makefile", *sorted((root / "docs").rglob("*.md"))]
    for page in pages:
        is_code = page.name == "Makefile"
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if line.startswith("```"):
                is_code = not is_code
                continue
            text = line.partition("#")[2] if is_code else line
            yield Text("page", f"{page.relative_to(root)}:{number}", text)


def read_descriptions(root: Path) -> Iterator[Text]:
    """Yield the summaries and descriptions of the API's OpenAPI document."""

    def walk(value: object, place: str) -> Iterator[Text]:
        if isinstance(value, dict):
            for key, child in value.items():
                if key in ("summary", "description") and isinstance(child, str):
                    yield Text("description", f"docs/openapi.json{place}", child)
                else:
                    yield from walk(child, f"{place}/{key}")
        elif isinstance(value, list):
            for number, child in enumerate(value):
                yield from walk(child, f"{place}/{number}")

    yield from walk(json.loads((root / "docs" / "openapi.json").read_text()), "")


def find_banned(text: str) -> list[str]:
    """List the banned words in a text; text in backticks or quotes is a name, not language."""
    return BANNED.findall(re.sub(r"`[^`]*`|\"[^\"]*\"", "x", " ".join(text.split())))


def find_banned_in_page(text: str) -> list[str]:
    """List the banned words in a line of a page, whose beginning may be in the line before it."""
    sentence = f"x {text.strip()}"
    return [word for word in find_banned(sentence) if word.lower() != "the same"]


@functools.cache
def read_texts(root: Path, *folders: str) -> list[Text]:
    """List every text of the modules in these folders."""
    return [
        text
        for path in python_files(root, *folders)
        for read in (read_docstrings, read_comments, read_messages, read_errors)
        for text in read(path, root)
    ]


def count_class_names(root: Path) -> dict[str, int]:
    """Count the public classes of each name that several modules define."""
    names = collections.Counter(
        node.name
        for path in python_files(root, "jobworker", "bench", "tests")
        for node in ast.walk(parse_module(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "Meta"  # marshmallow's
    )
    return {name: count for name, count in names.items() if count > 1}


def main() -> None:
    """Print the measures of a working tree."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for folder in ("jobworker", "bench", "tests"):
        files = python_files(root, folder)
        texts = read_texts(root, folder)
        docstrings = [text for text in texts if text.kind in ("function", "noun")]
        headless = [text for text in docstrings if not text.has_subject]
        banned = sum(len(find_banned(text.text)) for text in texts)
        lines = sum(path.read_text().count("\n") for path in files)
        print(
            f"{folder}: {len(files)} modules, {lines} lines, {len(docstrings)} docstrings, "
            f"{len(headless)} without a subject ({len(headless) / max(1, len(docstrings)):.1%}), {banned} banned words"
        )
        if "-v" in sys.argv:
            for text in headless:
                print(f"  {text.place}: {text.text.splitlines()[0]}")
            for text in texts:
                if words := find_banned(text.text):
                    print(f"  {text.place}: {', '.join(words)}: {' '.join(text.text.split())[:160]}")
    pages = [(text, words) for text in read_pages(root) if (words := find_banned_in_page(text.text))]
    print(f"docs: {len(pages)} lines with banned words")
    if "-v" in sys.argv:
        for text, words in pages:
            print(f"  {text.place}: {', '.join(words)}: {text.text[:160]}")
    described = list(read_descriptions(root))
    print(f"OpenAPI: {len(described)} texts, {sum(len(find_banned(text.text)) for text in described)} banned words")
    twice = count_class_names(root)
    print(f"class names defined more than once: {len(twice)}: {', '.join(sorted(twice))}")
    folders = collections.Counter(str(path.parent.relative_to(root)) for path in python_files(root, "jobworker"))
    print("modules per folder:", ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items())))


if __name__ == "__main__":
    main()
