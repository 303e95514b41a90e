"""SQL of schedules and occurrences."""
