"""Schedules: the value, its rules, its timetable and the evaluation of due occurrences."""
