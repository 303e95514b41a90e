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

from jobworker.domain.errors import FieldError
from jobworker.domain.jobs.parameters import VARIADIC, Parameter
from jobworker.domain.json.json_reader import JsonObjectReader

MAX_LIMIT = 1_000_000

#: No period may be longer (s).
MAX_PERIOD_SECONDS = 366 * 24 * 3600.0

#: What belongs into such a time (s) may start together: the relay looks no more often.
_BURST_SECONDS = 0.2

#: So many seconds' worth of a rate may be published and not started yet; more would start in a heap.
_AHEAD_SECONDS = 1.0

#: The policies that have keys.
KEYED_POLICIES = ("concurrency", "rate_limit", "unique")

_MAX_TEMPLATE_LENGTH = 200
_MAX_KEY_LENGTH = 120
_TRUNCATED_KEY_LENGTH = 80
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[^{}.]+)*)\}")

#: Between the two parts of a limit key; no part has it, because both are printable.
_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class ConcurrencyPolicy:
    """See the module."""

    limit: int
    key: str | None = None
    total: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"limit": self.limit, "key": self.key, "total": self.total}


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """See the module. A bucket is known by one moment, at which it will be full again (`full_at`; None: it is)."""

    limit: int
    per: float
    burst: int = 1
    key: str | None = None

    def count_permits(self, full_at: dt.datetime | None, now: dt.datetime) -> int:
        """How many may start now."""
        # Times have microseconds: a permit is not refused for the fraction of one.
        return max(
            0, math.floor(self._compute_burst() - self._compute_used_seconds(full_at, now) / self._interval + 1e-4)
        )

    def compute_next_start(self, full_at: dt.datetime | None, now: dt.datetime) -> dt.datetime:
        """When the next one may start."""
        wait = self._compute_used_seconds(full_at, now) - (self._compute_burst() - 1) * self._interval
        return now + dt.timedelta(seconds=max(0.0, wait))

    def compute_full_at(self, full_at: dt.datetime | None, now: dt.datetime, count: int) -> dt.datetime:
        """When the bucket is full again, after `count` have started now."""
        return now + dt.timedelta(seconds=self._compute_used_seconds(full_at, now) + count * self._interval)

    def compute_max_ahead(self) -> int:
        """So many may be on their way to a worker at a time."""
        return max(self._compute_burst(), math.ceil(_AHEAD_SECONDS / self._interval))

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"limit": self.limit, "per": self.per, "burst": self.burst, "key": self.key}

    @property
    def _interval(self) -> float:
        return self.per / self.limit

    def _compute_burst(self) -> int:
        return max(self.burst, math.ceil(_BURST_SECONDS / self._interval))

    def _compute_used_seconds(self, full_at: dt.datetime | None, now: dt.datetime) -> float:
        return max(0.0, (full_at - now).total_seconds()) if full_at else 0.0


class UniqueUntil(StrEnum):
    """How long an execution keeps others with its unique key out."""

    STARTED = "started"
    FINISHED = "finished"


class OnConflict(StrEnum):
    """What becomes of a submission whose unique key is taken."""

    REJECT = "reject"
    RETURN = "return"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class UniquePolicy:
    """See the module; `seconds` is the field `for`, and with it `until` means nothing."""

    key: str | None = None
    until: UniqueUntil = UniqueUntil.FINISHED
    seconds: float | None = None
    on_conflict: OnConflict = OnConflict.REJECT

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        until = None if self.seconds is not None else self.until.value
        return {"key": self.key, "until": until, "for": self.seconds, "on_conflict": self.on_conflict.value}


def parse_concurrency(value: object, where: str = "/concurrency") -> ConcurrencyPolicy:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
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
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
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
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
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
    """What is stored with an execution. Executions of one `limit_key` are held up, or not, alike."""

    concurrency_key: str | None = None
    rate_key: str | None = None
    limit_key: str | None = None
    unique_key: str | None = None


def compute_keys(
    job: str, policies: Mapping[str, Any], parameters: Mapping[str, Any], accepted: Iterable[Parameter] = ()
) -> ExecutionKeys:
    """The keys of an execution. A parameter that was not given stands with its default, one without as null."""
    wanted = {name: policies.get(name) for name in KEYED_POLICIES}
    if not any(wanted.values()):
        return ExecutionKeys()
    values = {each.name: each.default for each in accepted} | dict(parameters)
    concurrency, rate = _render_key(job, wanted["concurrency"], values), _render_key(job, wanted["rate_limit"], values)
    limit_key = f"{concurrency or ''}{_SEPARATOR}{rate or ''}" if concurrency or rate else None
    unique = wanted["unique"]
    same = (
        f"{job}/{_compute_digest(_to_canonical_json(values))}"
        if unique and unique["key"] is None
        else _render_key(job, unique, values)
    )
    return ExecutionKeys(concurrency, rate, limit_key, same)


def split_limit_key(limit_key: str) -> tuple[str | None, str | None]:
    """The concurrency key and the rate key that a limit key is made of."""
    concurrency, _, rate = limit_key.partition(_SEPARATOR)
    return concurrency or None, rate or None


def get_job_name(key: str) -> str:
    """The job to which a key belongs. No job has a slash in its name."""
    return key.partition("/")[0]


def validate_keys(policies: Mapping[str, Any], accepted: Sequence[Parameter], where: str = "") -> list[FieldError]:
    """Keys of normalised policies that name parameters which the task does not have."""
    names = [each.name for each in accepted]
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
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _format_value(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) and value.isprintable() else _to_canonical_json(value)


def _to_canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _compute_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
