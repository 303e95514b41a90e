"""What a job service is about, in plain Python: no clock, no environment, no I/O."""
