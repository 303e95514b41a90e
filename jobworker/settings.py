"""Settings of JobWorker, read once from `JOBWORKER_*` environment variables; no other module reads these."""

import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs.definition import MAX_CODE_VERSION_LENGTH
from jobworker.domain.jobs.egress import EgressPolicy

#: A host in a URL: a name or an address, with or without a port, or all names below a domain.
_HOST = re.compile(r"((\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an operator. Times are in seconds, sizes in bytes.

    The variable of a field is its name in capitals after `JOBWORKER_`, e.g. `JOBWORKER_DATABASE_URL`.
    """

    #: Folder of the data of embedded servers, of saved files and of the SQLite database.
    home: Path
    #: Address of the HTTP API, host:port.
    bind: str
    #: Names by which clients call the API, beside those of loopback and the address in `bind`.
    hosts: tuple[str, ...]
    #: Address of Flower, host:port. Users with the password see which jobs ran and how they failed.
    flower_bind: str
    #: Flower's password (user jobworker); empty: generated and stored in `$JOBWORKER_HOME/flower.password`.
    flower_password: str
    #: SQLAlchemy URL: sqlite:///path or postgresql+psycopg://user:password@host/name.
    database_url: str
    #: redis://, rediss:// or unix:// URL of Redis >= 7.0 or Valkey.
    redis_url: str
    #: Python package whose modules define the jobs.
    tasks: str
    #: Python package whose modules declare schedules and calendars; it may be absent.
    schedules: str
    #: Version shown on each execution, cut to 64 characters; empty: a digest of the task modules' source.
    code_version: str
    #: Time without a heartbeat after which a worker is declared dead and its attempts are lost.
    worker_lease: float
    #: Transport of workers: batched (JobWorker's), or stock (kombu's: slower, and the relay republishes lost messages).
    transport: str
    #: Weights of queues, "critical=6 default=3 background=1" (others 1); or strict, in the order of -Q.
    queue_weights: str
    #: Provider that notices due schedules: redbeat (beat processes, on any number of hosts) or internal (the relay).
    scheduling_provider: str
    #: Time after which a published message without a claim is examined.
    lost_message_after: float
    #: Maximum number of equally or more urgent messages of a queue in Redis when one is added; the rest stays in SQL.
    feed: int
    #: Time after which executions that more urgent ones overtook get their share of the dispatch: one in ten.
    ageing: float
    #: Maximum size of a request body.
    max_body: int
    #: Retention of an Idempotency-Key.
    idempotency_ttl: float
    #: Addresses that the job http.request may reach beside public ones.
    egress: tuple[str, ...]
    #: Programs that the job shell.run may start (absolute paths); empty: the job is off.
    shell: tuple[str, ...]
    #: Images that containers may use, with * for any characters; empty: the job is off.
    container_images: tuple[str, ...]
    #: Networks of the engine that containers may join, beside none.
    container_networks: tuple[str, ...]
    #: Container engine: auto (podman if it is installed, else docker), or the name or path of a compatible engine.
    container_engine: str
    #: Additional options for the engine's `run`.
    container_args: tuple[str, ...]
    #: text (for people) or json (for machines).
    log_format: str
    #: Lowest level that is logged.
    log_level: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings; raises `ConfigurationError`, which names the variable and its valid values."""
        values = _EnvironmentReader(os.environ if environment is None else environment)
        home = Path(values.read_text("HOME", "var")).absolute()
        return cls(
            home=home,
            bind=values.read_text("BIND", "127.0.0.1:8000"),
            hosts=values.read_hosts("HOSTS"),
            flower_bind=values.read_text("FLOWER_BIND", "127.0.0.1:5555"),
            flower_password=values.read_text("FLOWER_PASSWORD", ""),
            database_url=values.read_database_url("DATABASE_URL", home),
            redis_url=values.read_text("REDIS_URL", DEFAULT_REDIS_URL),
            tasks=values.read_text("TASKS", "tasks"),
            schedules=values.read_text("SCHEDULES", "schedules"),
            code_version=values.read_text("CODE_VERSION", "")[:MAX_CODE_VERSION_LENGTH],
            worker_lease=values.read_number("WORKER_LEASE", 15.0, at_least=1.0),
            transport=values.read_choice("TRANSPORT", "batched", ("batched", "stock")),
            queue_weights=values.read_text("QUEUE_WEIGHTS", "critical=6 default=3 background=1"),
            scheduling_provider=values.read_choice("SCHEDULING_PROVIDER", "redbeat", ("redbeat", "internal")),
            lost_message_after=values.read_number("LOST_MESSAGE_AFTER", 10.0, at_least=1.0),
            feed=int(values.read_number("FEED", 1000, at_least=1)),
            ageing=values.read_number("AGEING", 60.0, at_least=1.0),
            max_body=int(values.read_number("MAX_BODY", 16 * 1024 * 1024, at_least=1024)),
            idempotency_ttl=values.read_number("IDEMPOTENCY_TTL", 24 * 3600.0, at_least=60.0),
            egress=values.read_egress("EGRESS"),
            shell=values.read_programs("SHELL"),
            container_images=values.read_words("CONTAINER_IMAGES"),
            container_networks=values.read_words("CONTAINER_NETWORKS"),
            container_engine=values.read_text("CONTAINER_ENGINE", "auto"),
            container_args=values.read_words("CONTAINER_ARGS"),
            log_format=values.read_choice("LOG_FORMAT", "text", ("text", "json")),
            log_level=values.read_choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        )

    @property
    def database_in_home(self) -> bool:
        """True if the database is a file in the home."""
        kind, _, path = self.database_url.partition(":///")
        return kind == "sqlite" and self.home in Path(path).absolute().parents

    def require_home(self) -> None:
        """Raise `ConfigurationError` if the home cannot be written to."""
        there = next(folder for folder in (self.home, *self.home.parents) if os.path.exists(folder))
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK, effective_ids=True):
            return
        why = "this user may not write to" if there.is_dir() else "there is a file in its place:"
        raise ConfigurationError(
            f"JOBWORKER_HOME={self.home} cannot be used: {why} {there}; "
            "set JOBWORKER_HOME to a folder that can be written, or to one that can be created"
        )

    @property
    def needs_beat(self) -> bool:
        """True if beat notices due schedules."""
        return self.scheduling_provider == "redbeat"

    @property
    def heartbeat_interval(self) -> float:
        """The interval between heartbeats, of which three fit into a lease, so that one may get lost."""
        return self.worker_lease / 3


def mask_password(url: str) -> str:
    """Return `url` without its password, for output."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@", 1)))


class _EnvironmentReader:
    """A reader of the JOBWORKER_* variables; its errors name the variable."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def read_text(self, name: str, default: str) -> str:
        return self._environment.get(f"JOBWORKER_{name}") or default

    def read_number(self, name: str, default: float, at_least: float) -> float:
        text = self.read_text(name, str(default))
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        # Written in this form, the condition also refuses NaN.
        if not at_least <= number < math.inf:
            raise ConfigurationError(f"JOBWORKER_{name}={text} must be a number, at least {at_least:g}")
        return number

    def read_choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        choice = self.read_text(name, default)
        if choice not in allowed:
            raise ConfigurationError(f"JOBWORKER_{name}={choice} must be one of {', '.join(allowed)}")
        return choice

    def read_words(self, name: str) -> tuple[str, ...]:
        text = self.read_text(name, "")
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise ConfigurationError(f"JOBWORKER_{name}={text} must be words as in a shell: {error}") from None

    def read_hosts(self, name: str) -> tuple[str, ...]:
        hosts = tuple(self.read_text(name, "").replace(",", " ").lower().split())
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ConfigurationError(
                    f"JOBWORKER_{name}={host} must be the name of a host, with a port or without, or *. and a domain: "
                    "jobs.example.com, jobs.example.com:8443, *.example.com"
                )
        return hosts

    def read_egress(self, name: str) -> tuple[str, ...]:
        entries = tuple(self.read_text(name, "").replace(",", " ").split())
        EgressPolicy(entries)
        return entries

    def read_programs(self, name: str) -> tuple[str, ...]:
        programs = tuple(self.read_text(name, "").replace(",", " ").split())
        for program in programs:
            if not program.startswith("/"):
                raise ConfigurationError(f"JOBWORKER_{name}={program} must be the absolute path of a program")
        return programs

    def read_database_url(self, name: str, home: Path) -> str:
        url = self.read_text(name, f"sqlite:///{home / 'jobworker.db'}")
        if url.startswith(("postgresql://", "postgres://")):
            url = "postgresql+psycopg://" + url.partition("://")[2]
        if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ConfigurationError(
                f"JOBWORKER_{name}={mask_password(url)} must start with sqlite:/// or postgresql+psycopg://"
            )
        return url
