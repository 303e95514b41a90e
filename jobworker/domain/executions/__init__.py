"""Executions: states, events, blockers, and limits of their stored data."""
