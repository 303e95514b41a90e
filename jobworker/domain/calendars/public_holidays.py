"""Public holidays of countries and their subdivisions (ISO 3166 codes), from the library `holidays`.

The library is imported on first use because it takes 10 to 20 MiB that most processes, especially workers, never need.
"""

import datetime as dt
import difflib
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Preferred languages for names, as the library calls them. Otherwise names are in the country's own language.
_ENGLISH_LANGUAGES = ("en_US", "en_GB")


@dataclass(frozen=True, slots=True)
class Country:
    """A country with known holidays, and its subdivisions with holidays of their own."""

    code: str
    name: str
    subdivisions: Sequence[str]


@functools.lru_cache(maxsize=1024)
def get_holidays(country: str, subdivision: str | None, year: int) -> Mapping[dt.date, str]:
    """Return the holidays of a year with their names; both codes must be known."""
    import holidays

    with warnings.catch_warnings():
        # The library has lunar holidays for some years only; other years are without them.
        warnings.filterwarnings("ignore", message="Requested Holidays are available only")
        languages = holidays.country_holidays(country, subdiv=subdivision).supported_languages
        english = next((language for language in _ENGLISH_LANGUAGES if language in languages), None)
        return dict(holidays.country_holidays(country, subdivision, [year], expand=False, language=english))


@functools.cache
def list_countries() -> Sequence[Country]:
    """Return all countries that the library knows, by code."""
    import holidays

    named = _get_country_names()
    subdivisions_by_country = holidays.list_supported_countries(include_aliases=False)
    return [
        Country(code, named.get(code, code), tuple(subdivisions_by_country[code]))
        for code in sorted(subdivisions_by_country)
    ]


def describe_country_problem(country: str) -> str | None:
    """Return the problem of a country code, with a suggestion; None if the code is known."""
    named = _get_country_names()
    if country in named:
        return None
    folded = country.casefold()
    codes = {code.casefold(): code for code in named} | {name.casefold(): code for code, name in named.items()}
    close = list(
        dict.fromkeys(codes[spelling] for spelling in difflib.get_close_matches(folded, codes, n=3, cutoff=0.7))
    )
    hint = f"; did you mean {' or '.join(f'{code} ({named[code]})' for code in close)}?" if close else ""
    return f"{country!r} is not a country whose holidays are known: give its code of two letters, such as DE{hint}"


def describe_subdivision_problem(country: str, subdivision: str) -> str | None:
    """Return the problem of the code of a known country's subdivision; None if the code is known."""
    import holidays

    country_holidays = holidays.country_holidays(country)
    if subdivision in country_holidays.subdivisions:
        return None
    if not country_holidays.subdivisions:
        return f"{country} has no parts with holidays of their own: leave subdivision out"
    aliases = {code.casefold(): code for code in country_holidays.subdivisions}
    aliases |= {name.casefold(): code for name, code in country_holidays.subdivisions_aliases.items()}
    matches = difflib.get_close_matches(subdivision.casefold(), aliases, n=3, cutoff=0.7)
    close = list(dict.fromkeys(aliases[alias] for alias in matches))
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{subdivision!r} is not a known part of {country}; {hint}known are: {', '.join(country_holidays.subdivisions)}"
    )


@functools.cache
def _get_country_names() -> Mapping[str, str]:
    """Return the English name of each code of two letters."""
    from holidays.registry import COUNTRIES

    return {codes[1]: module.replace("_", " ").title() for module, codes in COUNTRIES.items()}
