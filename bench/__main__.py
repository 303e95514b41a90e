"""Command `python -m bench [system | transport | limits | scheduling] [options] [measure …]`; see `--help`.

The default suite is `system`.
"""

import signal
import sys
from collections.abc import Callable, Sequence

from bench.limits import command as limits
from bench.scheduling import command as scheduling
from bench.system import command as system
from bench.transport import command as transport

_SUITES: dict[str, Callable[[Sequence[str]], None]] = {
    "system": system.main,
    "transport": transport.main,
    "limits": limits.main,
    "scheduling": scheduling.main,
}


def main() -> None:
    """Run one suite. SIGTERM exits normally, so that all started servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = sys.argv[1:]
    suite = arguments.pop(0) if arguments and arguments[0] in _SUITES else "system"
    _SUITES[suite](arguments)


if __name__ == "__main__":
    main()
