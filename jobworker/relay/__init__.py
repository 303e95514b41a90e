"""The edge between SQL and Redis: rows become messages, reports become history."""
