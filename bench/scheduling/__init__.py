"""Benchmarks of schedules, from beat over the relay to the queue, against stock RedBeat."""
