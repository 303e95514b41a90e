"""Use cases of executions: read, follow, cancel, redrive, and explain what blocks them."""
