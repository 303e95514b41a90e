"""A command that fills the examples' database: `python -m tasks.seed [--entities 5000] [--force]`."""

import argparse
import sys
from collections.abc import Sequence

from tasks import database


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.seed", description="Fill the examples' database.")
    parser.add_argument("--entities", type=int, default=5000, help="how many entities to make (default: 5000)")
    parser.add_argument("--force", action="store_true", help="replace the entities that are there")
    options = parser.parse_args(arguments)
    if options.entities < 1:
        parser.error("--entities must be at least 1")
    fresh = not database.path().exists()
    with database.opened() as connection:
        present = database.count(connection)
        if present and not fresh and not options.force:
            sys.stderr.write(f"{database.path()} holds {present} entities already; --force replaces them\n")
            return 1
        database.replace_all(connection, options.entities)
    sys.stdout.write(f"{options.entities} entities in {database.path()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
