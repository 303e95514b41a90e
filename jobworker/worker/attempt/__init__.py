"""The life of one attempt in the process that runs it: delivery, run, outcome, log."""
