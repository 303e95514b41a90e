"""iCalendar files (RFC 5545), read into days and windows of time."""
