"""iCalendar files (RFC 5545), converted to days and windows of time."""
