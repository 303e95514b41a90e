"""Use cases of schedules: change, evaluate, preview, backfill, simulate."""
