"""Benchmarks of the message transport between relay and workers, against stock Celery's.

There is one module for each measure. `systems` are the compared systems, `baseline` is the app of stock Celery, and
`command` runs the measures. This module is empty because the workers of the baseline import it and must not load
JobWorker.
"""
