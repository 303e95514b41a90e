"""Benchmarks of limits and priorities on a complete installation."""
