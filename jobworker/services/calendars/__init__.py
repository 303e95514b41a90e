"""Use cases of calendars: query, change, import."""
