"""Figures beside stock Celery, taken in turns in the same run: `python -m bench [system | transport]`.

`system` measures what a user gets, from an HTTP request to a row in SQL; `transport` measures what carries
messages between relay and workers. Both start their servers with `rig` and print with `table`.
"""
