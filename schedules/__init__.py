"""The example schedules. The relay loads every module in this package when it starts, and applies its declarations.

The examples start the jobs in `tasks/`: keep the useful parts, delete the rest. Schedules need only `from jobworker
import …`; `jobworker schedules plan` shows the effect of a change here.
"""
