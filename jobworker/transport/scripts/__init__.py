"""What happens in Redis in one step. Each script names its keys and says what it answers.

All of them use Redis's own clock (TIME), never a host's. Keys that follow from messages and executions are
built inside, so all of JobWorker's data live on one Redis (no cluster).
"""
