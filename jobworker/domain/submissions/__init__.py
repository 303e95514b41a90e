"""Submissions: the deadlines for their start."""
