"""Language of docstrings, comments, log and error messages, command help, OpenAPI descriptions and pages."""

import pytest

from tests import language

#: Maximum share of docstrings without a subject.
MAX_HEADLESS_SHARE = 0.02

#: Number of banned words in each folder. It may only decrease.
BANNED_WORDS = {"jobworker": 0, "bench": 0, "tests": 0}


@pytest.mark.parametrize("folder", ["jobworker", "bench", "tests"])
def test_docstrings_have_a_subject(folder: str) -> None:
    texts = [text for text in language.read_texts(language.ROOT, folder) if text.kind in ("function", "noun")]
    headless = [f"{text.place}: {text.text.splitlines()[0]}" for text in texts if not text.has_subject]
    assert len(headless) <= len(texts) * MAX_HEADLESS_SHARE, "\n".join(headless)


@pytest.mark.parametrize("folder", BANNED_WORDS)
def test_texts_contain_no_banned_words(folder: str) -> None:
    texts = language.read_texts(language.ROOT, folder)
    banned = [f"{text.place}: {words}: {text.text}" for text in texts if (words := language.find_banned(text.text))]
    assert len(banned) <= BANNED_WORDS[folder], "\n".join(banned)


def test_openapi_descriptions_contain_no_banned_words() -> None:
    texts = language.read_descriptions(language.ROOT)
    assert [f"{text.place}: {text.text}" for text in texts if language.find_banned(text.text)] == []


def test_pages_contain_no_banned_words() -> None:
    texts = language.read_pages(language.ROOT)
    assert [f"{text.place}: {text.text}" for text in texts if language.find_banned_in_page(text.text)] == []


def test_public_class_names_are_unique() -> None:
    assert language.count_class_names(language.ROOT) == {}


@pytest.mark.parametrize(
    ("kind", "text", "has_subject"),
    [
        ("function", "Return the claim of an attempt.", True),
        ("function", "What became of a batch.", False),
        ("function", "The same in SQL.", False),
        ("function", "`name` of the queue.", True),
        ("noun", "Fair queue of executions under limits.", True),
        ("noun", "Who is next in one queue.", False),
        ("noun", "The same for a message.", False),
    ],
)
def test_subjects_are_recognized(kind: str, text: str, has_subject: bool) -> None:
    assert language.Text(kind, "x.py:1", text).has_subject is has_subject


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Return what nobody has claimed.", 1),
        ("Maximum number of reports: so many are told.", 2),
        ("A schedule, or the same in SQL.", 1),
        ("Return the same schedule again.", 0),
        ("An offset alone is none.", 1),
        ("Return `somebody`.", 0),
        ("Reports. Who ends first stays.", 1),
        ("Names of those who may call it.", 0),
    ],
)
def test_banned_words_are_found(text: str, words: int) -> None:
    assert len(language.find_banned(text)) == words
