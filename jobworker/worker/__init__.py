"""Execution of jobs inside Celery's worker, which connects to Redis only."""
