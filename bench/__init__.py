"""Figures beside bare Celery, taken in turns in the same run: `make bench`."""
