"""SQL of executions and of what belongs to them: history, dependencies, limits, log lines."""
