"""`python -m jobworker.cli`, which is equivalent to `jobworker`."""

from jobworker.cli import main

main(prog_name="jobworker")
