"""SQL of calendars."""
