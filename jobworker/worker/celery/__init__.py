"""Celery's worker classes, overridden where JobWorker differs."""
