"""The relay between SQL and Redis: dispatches executions as messages and records the events of workers and beat."""
