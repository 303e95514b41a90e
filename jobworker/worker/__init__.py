"""The edge at which jobs run: inside Celery's worker, talking to Redis only."""
