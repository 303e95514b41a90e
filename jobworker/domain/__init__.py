"""Domain logic of the job service, in plain Python: no clock, no environment, no I/O."""
