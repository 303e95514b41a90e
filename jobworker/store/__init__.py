"""SQL: the only rooms that speak it. Functions take an open transaction and never commit."""
