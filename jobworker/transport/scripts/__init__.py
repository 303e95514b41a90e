"""Lua scripts: operations that Redis runs in one step. Each script documents its keys and its result.

All of them use Redis's own clock (TIME), never a host's. Keys that follow from messages and executions are built
inside, so all of JobWorker's data live on one Redis (no cluster).
"""
