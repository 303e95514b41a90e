"""SQL of executions and their history, dependencies, limits and log lines."""
