"""Use cases that create executions: submission, rerun, uniqueness."""
