"""Submissions: requests to run a job, their checks, and the deadlines for the start of what they create."""
