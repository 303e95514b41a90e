"""Executions: states, events, blockers, and rules for what is kept of them."""
