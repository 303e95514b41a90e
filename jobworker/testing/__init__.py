"""For the tests of those who write jobs and schedules: a plugin of pytest."""
