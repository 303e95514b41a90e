"""What happens by itself. The relay reads every module in this package when it starts, and makes it so.

What is here are working examples for the jobs in `tasks/`: keep what helps, delete the rest. Schedules need nothing of
JobWorker but `from jobworker import …`; `jobworker schedules plan` shows what a change here will do.
"""
