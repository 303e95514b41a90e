"""How much of a job may run at once, how often it may start, and what counts as the same work.

Policies of a definition, all fields optional but `limit` and `per`:

concurrency  limit: so many executions run at a time, on all hosts together, for each `key`; total: so many of all
             keys together, shared out evenly
rate_limit   limit executions start per so many seconds (`per`), evenly spaced but for `burst` of them at once, for
             each `key`
unique       no two executions with the same `key` (without one: with the same parameters) until the first has
             `started` or `finished` (`until`), or for so many seconds (`for`); on_conflict says what becomes of the
             second: reject, return (the first answers for it), replace (the first, if it has not started)

A `key` is a text with parameters in braces: `tenant:{tenant_id}`, `{customer.country}`. Keys belong to their job.
"""

import datetime as dt
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError
from jobworker.domain.parameters import VARIADIC, Parameter

MOST = 1_000_000

#: No period may be longer (s).
LONGEST_PERIOD = 366 * 24 * 3600.0

#: What belongs into such a time (s) may start together: the relay looks no more often.
_TOGETHER = 0.2

#: So many seconds' worth of a rate may be published and not started yet; more would start in a heap.
_AHEAD = 1.0

#: The policies that have keys.
KEYED = ("concurrency", "rate_limit", "unique")

_LONGEST_TEMPLATE = 200
_LONGEST_TEXT = 120
_KEPT_OF_LONG = 80
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[^{}.]+)*)\}")

#: Between the two parts of a limit key; no part has it, because both are printable.
_BETWEEN = "\n"


@dataclass(frozen=True, slots=True)
class Concurrency:
    """See the module."""

    limit: int
    key: str | None = None
    total: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"limit": self.limit, "key": self.key, "total": self.total}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """See the module. A bucket is known by one moment, at which it will be full again (`full_at`; None: it is)."""

    limit: int
    per: float
    burst: int = 1
    key: str | None = None

    def count_permits(self, full_at: dt.datetime | None, now: dt.datetime) -> int:
        """How many may start now."""
        # Times have microseconds: a permit is not refused for the fraction of one.
        return max(0, math.floor(self._compute_burst() - self._compute_used_seconds(full_at, now) / self._interval + 1e-4))

    def compute_next_start(self, full_at: dt.datetime | None, now: dt.datetime) -> dt.datetime:
        """When the next one may start."""
        wait = self._compute_used_seconds(full_at, now) - (self._compute_burst() - 1) * self._interval
        return now + dt.timedelta(seconds=max(0.0, wait))

    def compute_full_at(self, full_at: dt.datetime | None, now: dt.datetime, count: int) -> dt.datetime:
        """When the bucket is full again, after `count` have started now."""
        return now + dt.timedelta(seconds=self._compute_used_seconds(full_at, now) + count * self._interval)

    def compute_max_ahead(self) -> int:
        """So many may be on their way to a worker at a time."""
        return max(self._compute_burst(), math.ceil(_AHEAD / self._interval))

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"limit": self.limit, "per": self.per, "burst": self.burst, "key": self.key}

    @property
    def _interval(self) -> float:
        return self.per / self.limit

    def _compute_burst(self) -> int:
        return max(self.burst, math.ceil(_TOGETHER / self._interval))

    def _compute_used_seconds(self, full_at: dt.datetime | None, now: dt.datetime) -> float:
        return max(0.0, (full_at - now).total_seconds()) if full_at else 0.0


class Until(StrEnum):
    """How long an execution keeps others with its unique key out."""

    STARTED = "started"
    FINISHED = "finished"


class OnConflict(StrEnum):
    """What becomes of a submission whose unique key is taken."""

    REJECT = "reject"
    RETURN = "return"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Unique:
    """See the module; `seconds` is the field `for`, and with it `until` means nothing."""

    key: str | None = None
    until: Until = Until.FINISHED
    seconds: float | None = None
    on_conflict: OnConflict = OnConflict.REJECT

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        until = None if self.seconds is not None else self.until.value
        return {"key": self.key, "until": until, "for": self.seconds, "on_conflict": self.on_conflict.value}


def parse_concurrency(given: object, where: str = "/concurrency") -> Concurrency:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    policy = Concurrency(read.get_integer("limit", 1, MOST, 1) or 1, _template(read), read.get_integer("total", 1, MOST))
    read.require("limit")
    if policy.total is not None and policy.key is None:
        read.add_problem("total", "not_allowed", "total needs a key: without one, limit is the total")
    read.finish()
    return policy


def parse_rate_limit(given: object, where: str = "/rate_limit") -> RateLimit:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    policy = RateLimit(
        limit=read.get_integer("limit", 1, MOST, 1) or 1,
        per=read.get_seconds("per", 0.001, LONGEST_PERIOD, 1.0) or 1.0,
        burst=read.get_integer("burst", 1, MOST, 1) or 1,
        key=_template(read),
    )
    read.require("limit", "per")
    read.finish()
    return policy


def parse_unique(given: object, where: str = "/unique") -> Unique:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    seconds = read.get_seconds("for", 0.001, LONGEST_PERIOD)
    if seconds is not None and read.get_value("until") is not None:
        read.add_problem("for", "ambiguous", "give until or for, not both")
    policy = Unique(
        key=_template(read),
        until=Until(read.get_choice("until", list(Until), Until.FINISHED)),
        seconds=seconds,
        on_conflict=OnConflict(read.get_choice("on_conflict", list(OnConflict), OnConflict.REJECT)),
    )
    read.finish()
    return policy


class Keys(NamedTuple):
    """What is stored with an execution. Executions of one `limit_key` are held up, or not, alike."""

    concurrency_key: str | None = None
    rate_key: str | None = None
    limit_key: str | None = None
    unique_key: str | None = None


def keys(
    job: str, policies: Mapping[str, Any], parameters: Mapping[str, Any], accepted: Iterable[Parameter] = ()
) -> Keys:
    """The keys of an execution. A parameter that was not given stands with its default, one without as null."""
    wanted = {name: policies.get(name) for name in KEYED}
    if not any(wanted.values()):
        return Keys()
    values = {each.name: each.default for each in accepted} | dict(parameters)
    concurrency, rate = _key(job, wanted["concurrency"], values), _key(job, wanted["rate_limit"], values)
    limit_key = f"{concurrency or ''}{_BETWEEN}{rate or ''}" if concurrency or rate else None
    unique = wanted["unique"]
    same = f"{job}/{_digest(_canonical(values))}" if unique and unique["key"] is None else _key(job, unique, values)
    return Keys(concurrency, rate, limit_key, same)


def parts(limit_key: str) -> tuple[str | None, str | None]:
    """The concurrency key and the rate key that a limit key is made of."""
    concurrency, _, rate = limit_key.partition(_BETWEEN)
    return concurrency or None, rate or None


def job_of(key: str) -> str:
    """The job to which a key belongs. No job has a slash in its name."""
    return key.partition("/")[0]


def check_keys(policies: Mapping[str, Any], accepted: Sequence[Parameter], where: str = "") -> list[FieldError]:
    """Keys of normalised policies that name parameters which the task does not have."""
    names = [each.name for each in accepted]
    if VARIADIC.name in names:
        return []
    return [
        FieldError(f"{where}/{policy}/key", "unknown_parameter", _unknown(named, names))
        for policy in KEYED
        for place in _PLACE.findall((policies.get(policy) or {}).get("key") or "")
        if (named := place.partition(".")[0]) not in names
    ]


def _unknown(named: str, names: Sequence[str]) -> str:
    return f"{{{named}}} is not a parameter of this task; it accepts {', '.join(names) or 'none'}"


def _template(read: Described) -> str | None:
    template = read.get_text("key", _LONGEST_TEMPLATE)
    if template is not None and re.search(r"[{}]", _PLACE.sub("", template)):
        read.add_problem("key", "not_allowed", "key may have braces only around the name of a parameter: tenant:{tenant_id}")
    return template


def _key(job: str, policy: Mapping[str, Any] | None, values: Mapping[str, Any]) -> str | None:
    if not policy:
        return None
    template = policy["key"]
    rendered = _PLACE.sub(lambda place: _text(_find(values, place.group(1))), template) if template else ""
    if len(rendered) > _LONGEST_TEXT:
        rendered = f"{rendered[:_KEPT_OF_LONG]}…{_digest(rendered)}"
    return f"{job}/{rendered}"


def _find(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) and value.isprintable() else _canonical(value)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
