"""Benchmarks of a complete installation against bare Celery, from an HTTP request to a row in SQL.

This module is empty because the workers of the baseline import it and must not load JobWorker.
"""
