"""Concurrency limits, rate limits and uniqueness of a job's executions.

Policies of a definition, all fields optional but `limit` and `per`:

concurrency  limit: maximum number of executions that run at a time, on all hosts together, for each `key`; total:
             maximum for all keys together, shared out evenly
rate_limit   limit executions start in `per` seconds, evenly spaced except for a `burst` that starts at once, for
             each `key`
unique       no two executions with an equal `key` (without a key: with equal parameters) until the first has
             `started` or `finished` (`until`), or for a number of seconds (`for`); on_conflict is the action for the
             second: reject, return (the first one), replace (the first one, if it has not started)

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

from jobworker.domain.errors import FieldError
from jobworker.domain.jobs.parameters import VARIADIC, Parameter
from jobworker.domain.json.json_reader import JsonObjectReader

MAX_LIMIT = 1_000_000

#: Maximum period of a rate limit or a unique key (s).
MAX_PERIOD_SECONDS = 366 * 24 * 3600.0

#: Time whose permits may be used at once (s), because the relay polls no more often.
_BURST_SECONDS = 0.2

#: Time whose permits may be dispatched and not started (s); more would start in a burst.
_AHEAD_SECONDS = 1.0

#: The policies that have keys.
KEYED_POLICIES = ("concurrency", "rate_limit", "unique")

_MAX_TEMPLATE_LENGTH = 200
_MAX_KEY_LENGTH = 120
_TRUNCATED_KEY_LENGTH = 80
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[^{}.]+)*)\}")

#: Separator of the two parts of a limit key; neither part contains it, because both are printable.
_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class ConcurrencyPolicy:
    """Concurrency policy; the module documents the fields."""

    limit: int
    key: str | None = None
    total: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"limit": self.limit, "key": self.key, "total": self.total}


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """Rate limit policy; the module documents the fields.

    The state of a bucket is the time at which it will be full again (`full_at`; None: it is full).
    """

    limit: int
    per: float
    burst: int = 1
    key: str | None = None

    def count_permits(self, full_at: dt.datetime | None, now: dt.datetime) -> int:
        """Return the number of executions that may start now."""
        # Times have microseconds, so a permit is not refused for a fraction of one.
        return max(
            0, math.floor(self._compute_burst() - self._compute_used_seconds(full_at, now) / self._interval + 1e-4)
        )

    def compute_next_start(self, full_at: dt.datetime | None, now: dt.datetime) -> dt.datetime:
        """Return the time at which the next execution may start."""
        wait = self._compute_used_seconds(full_at, now) - (self._compute_burst() - 1) * self._interval
        return now + dt.timedelta(seconds=max(0.0, wait))

    def compute_full_at(self, full_at: dt.datetime | None, now: dt.datetime, count: int) -> dt.datetime:
        """Return the time at which the bucket is full again, after `count` executions have started now."""
        return now + dt.timedelta(seconds=self._compute_used_seconds(full_at, now) + count * self._interval)

    def compute_max_ahead(self) -> int:
        """Return the maximum number of executions that may be dispatched and not started."""
        return max(self._compute_burst(), math.ceil(_AHEAD_SECONDS / self._interval))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"limit": self.limit, "per": self.per, "burst": self.burst, "key": self.key}

    @property
    def _interval(self) -> float:
        return self.per / self.limit

    def _compute_burst(self) -> int:
        return max(self.burst, math.ceil(_BURST_SECONDS / self._interval))

    def _compute_used_seconds(self, full_at: dt.datetime | None, now: dt.datetime) -> float:
        return max(0.0, (full_at - now).total_seconds()) if full_at else 0.0


class UniqueUntil(StrEnum):
    """End of the time in which an execution holds its unique key."""

    STARTED = "started"
    FINISHED = "finished"


class OnConflict(StrEnum):
    """Action for a submission whose unique key is held."""

    REJECT = "reject"
    RETURN = "return"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class UniquePolicy:
    """Uniqueness policy; the module documents the fields. `seconds` is the field `for`, which overrides `until`."""

    key: str | None = None
    until: UniqueUntil = UniqueUntil.FINISHED
    seconds: float | None = None
    on_conflict: OnConflict = OnConflict.REJECT

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        until = None if self.seconds is not None else self.until.value
        return {"key": self.key, "until": until, "for": self.seconds, "on_conflict": self.on_conflict.value}


def parse_concurrency(value: object, where: str = "/concurrency") -> ConcurrencyPolicy:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    policy = ConcurrencyPolicy(
        read.get_integer("limit", 1, MAX_LIMIT, 1) or 1,
        _parse_key_template(read),
        read.get_integer("total", 1, MAX_LIMIT),
    )
    read.require("limit")
    if policy.total is not None and policy.key is None:
        read.add_problem("total", "not_allowed", "total needs a key: without one, limit is the total")
    read.finish()
    return policy


def parse_rate_limit(value: object, where: str = "/rate_limit") -> RateLimitPolicy:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    policy = RateLimitPolicy(
        limit=read.get_integer("limit", 1, MAX_LIMIT, 1) or 1,
        per=read.get_seconds("per", 0.001, MAX_PERIOD_SECONDS, 1.0) or 1.0,
        burst=read.get_integer("burst", 1, MAX_LIMIT, 1) or 1,
        key=_parse_key_template(read),
    )
    read.require("limit", "per")
    read.finish()
    return policy


def parse_unique(value: object, where: str = "/unique") -> UniquePolicy:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    seconds = read.get_seconds("for", 0.001, MAX_PERIOD_SECONDS)
    if seconds is not None and read.get_value("until") is not None:
        read.add_problem("for", "ambiguous", "give until or for, not both")
    policy = UniquePolicy(
        key=_parse_key_template(read),
        until=UniqueUntil(read.get_choice("until", list(UniqueUntil), UniqueUntil.FINISHED)),
        seconds=seconds,
        on_conflict=OnConflict(read.get_choice("on_conflict", list(OnConflict), OnConflict.REJECT)),
    )
    read.finish()
    return policy


class ExecutionKeys(NamedTuple):
    """The keys that are stored with an execution. Limits block executions with an equal `limit_key` alike."""

    concurrency_key: str | None = None
    rate_key: str | None = None
    limit_key: str | None = None
    unique_key: str | None = None


def compute_keys(
    job: str, policies: Mapping[str, Any], parameters: Mapping[str, Any], accepted: Iterable[Parameter] = ()
) -> ExecutionKeys:
    """Return the keys of an execution. An absent parameter has its default in the key, or null without a default."""
    keyed_policies = {name: policies.get(name) for name in KEYED_POLICIES}
    if not any(keyed_policies.values()):
        return ExecutionKeys()
    values = {parameter.name: parameter.default for parameter in accepted} | dict(parameters)
    concurrency = _render_key(job, keyed_policies["concurrency"], values)
    rate = _render_key(job, keyed_policies["rate_limit"], values)
    limit_key = f"{concurrency or ''}{_SEPARATOR}{rate or ''}" if concurrency or rate else None
    unique = keyed_policies["unique"]
    unique_key = (
        f"{job}/{_compute_digest(_to_canonical_json(values))}"
        if unique and unique["key"] is None
        else _render_key(job, unique, values)
    )
    return ExecutionKeys(concurrency, rate, limit_key, unique_key)


def split_limit_key(limit_key: str) -> tuple[str | None, str | None]:
    """Return the concurrency key and the rate key that a limit key consists of."""
    concurrency, _, rate = limit_key.partition(_SEPARATOR)
    return concurrency or None, rate or None


def get_job_name(key: str) -> str:
    """Return the name of the job to which a key belongs. Names of jobs contain no slash."""
    return key.partition("/")[0]


def validate_keys(policies: Mapping[str, Any], accepted: Sequence[Parameter], where: str = "") -> list[FieldError]:
    """Return problems of keys in normalized policies that name parameters which the task does not have."""
    names = [parameter.name for parameter in accepted]
    if VARIADIC.name in names:
        return []
    return [
        FieldError(f"{where}/{policy}/key", "unknown_parameter", _describe_unknown_parameter(named, names))
        for policy in KEYED_POLICIES
        for place in _PLACEHOLDER.findall((policies.get(policy) or {}).get("key") or "")
        if (named := place.partition(".")[0]) not in names
    ]


def _describe_unknown_parameter(name: str, names: Sequence[str]) -> str:
    return f"{{{name}}} is not a parameter of this task; it accepts {', '.join(names) or 'none'}"


def _parse_key_template(reader: JsonObjectReader) -> str | None:
    template = reader.get_text("key", _MAX_TEMPLATE_LENGTH)
    if template is not None and re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        reader.add_problem(
            "key", "not_allowed", "key may have braces only around the name of a parameter: tenant:{tenant_id}"
        )
    return template


def _render_key(job: str, policy: Mapping[str, Any] | None, values: Mapping[str, Any]) -> str | None:
    if not policy:
        return None
    template = policy["key"]
    rendered = (
        _PLACEHOLDER.sub(lambda place: _format_value(_find_value(values, place.group(1))), template) if template else ""
    )
    if len(rendered) > _MAX_KEY_LENGTH:
        rendered = f"{rendered[:_TRUNCATED_KEY_LENGTH]}…{_compute_digest(rendered)}"
    return f"{job}/{rendered}"


def _find_value(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _format_value(value: Any) -> str:
    """Return a text unchanged, and any other value as JSON."""
    return value if isinstance(value, str) and value.isprintable() else _to_canonical_json(value)


def _to_canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _compute_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
