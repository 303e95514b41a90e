"""Support for tests of jobs and schedules: a plugin of pytest."""
