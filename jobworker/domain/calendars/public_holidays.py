"""Public holidays of countries and of their parts (ISO 3166 codes), out of the library `holidays`.

The library is loaded when the first one is asked for: 10 to 20 MiB that most processes, workers above all, never need.
"""

import datetime as dt
import difflib
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: How the library calls the languages that we prefer for names. Where it has none of them, names are the country's own.
_ENGLISH_LANGUAGES = ("en_US", "en_GB")


@dataclass(frozen=True, slots=True)
class Country:
    """A country whose holidays are known, and its parts that have some of their own."""

    code: str
    name: str
    subdivisions: Sequence[str]


@functools.lru_cache(maxsize=1024)
def get_holidays(country: str, subdivision: str | None, year: int) -> Mapping[dt.date, str]:
    """The holidays of a year with their names; both codes must be known."""
    import holidays

    with warnings.catch_warnings():
        # Those that follow the moon are known for some years only: there are none in the others.
        warnings.filterwarnings("ignore", message="Requested Holidays are available only")
        languages = holidays.country_holidays(country, subdiv=subdivision).supported_languages
        english = next((each for each in _ENGLISH_LANGUAGES if each in languages), None)
        return dict(holidays.country_holidays(country, subdivision, [year], expand=False, language=english))


@functools.cache
def list_countries() -> Sequence[Country]:
    """Every country that is known, by its code."""
    import holidays

    named = _get_country_names()
    known = holidays.list_supported_countries(include_aliases=False)
    return [Country(code, named.get(code, code), tuple(known[code])) for code in sorted(known)]


def describe_country_problem(country: str) -> str | None:
    """What is wrong with the code of a country, and what would be right; None: nothing."""
    named = _get_country_names()
    if country in named:
        return None
    folded = country.casefold()
    codes = {code.casefold(): code for code in named} | {name.casefold(): code for code, name in named.items()}
    close = list(dict.fromkeys(codes[each] for each in difflib.get_close_matches(folded, codes, n=3, cutoff=0.7)))
    hint = f"; did you mean {' or '.join(f'{code} ({named[code]})' for code in close)}?" if close else ""
    return f"{country!r} is not a country whose holidays are known: give its code of two letters, such as DE{hint}"


def describe_subdivision_problem(country: str, subdivision: str) -> str | None:
    """What is wrong with the code of a part of a country that is known; None: nothing."""
    import holidays

    found = holidays.country_holidays(country)
    if subdivision in found.subdivisions:
        return None
    if not found.subdivisions:
        return f"{country} has no parts with holidays of their own: leave subdivision out"
    aliases = {each.casefold(): each for each in found.subdivisions}
    aliases |= {name.casefold(): code for name, code in found.subdivisions_aliases.items()}
    matches = difflib.get_close_matches(subdivision.casefold(), aliases, n=3, cutoff=0.7)
    close = list(dict.fromkeys(aliases[each] for each in matches))
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{subdivision!r} is no part of {country} that is known; {hint}known are: {', '.join(found.subdivisions)}"


@functools.cache
def _get_country_names() -> Mapping[str, str]:
    """Code of two letters → name in English."""
    from holidays.registry import COUNTRIES

    return {codes[1]: module.replace("_", " ").title() for module, codes in COUNTRIES.items()}
