"""SQL of schedules, occurrences and calendars."""
