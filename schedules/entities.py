"""Schedules of the jobs for entities."""

from jobworker import business_day, calendar, daily, every, schedule

calendar("germany", country="DE", description="Business days all over Germany.")

schedule(
    "cleanup-inactive",
    job="cleanup_inactive_entities",
    rule=daily("02:00"),
    zone="Europe/Berlin",
    parameters={"inactive_days": 90},
    description="Once a night; one run for all missed occurrences.",
)

schedule(
    "entity-statistics",
    job="generate_entity_statistics",
    rule=every(300),
    misfire={"policy": "skip"},
    description="Every five minutes; late occurrences are skipped.",
)

schedule(
    "month-end-export",
    job="process_data_export",
    rule=business_day(-1, "18:00"),
    zone="Europe/Berlin",
    calendar="germany",
    parameters={"user_id": "u-1"},
    misfire={"policy": "catch_up", "max": 3},
    description="The last business day of each month.",
)
