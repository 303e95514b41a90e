"""Control of running attempts by the worker's parent process: time limits and stop requests."""
