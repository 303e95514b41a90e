"""Business calendars and public holidays."""
