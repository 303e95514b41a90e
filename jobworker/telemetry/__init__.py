"""How the processes tell what they do: logs and metrics."""
