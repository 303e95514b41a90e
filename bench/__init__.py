"""Benchmarks against stock Celery, both measured in turns in one run: `python -m bench [system | transport]`.

`system` measures from an HTTP request to a row in SQL; `transport` measures the message transport between relay and
workers. Both start their servers with `harness` and print with `report`.
"""
