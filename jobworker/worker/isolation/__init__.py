"""Attempts that run outside of the worker's own processes: in a process of their own, or in a container."""
