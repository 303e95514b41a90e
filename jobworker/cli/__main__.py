"""`python -m jobworker.cli`: the same as `jobworker`."""

from jobworker.cli import main

main(prog_name="jobworker")
