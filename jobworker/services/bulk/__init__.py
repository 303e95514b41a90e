"""Actions on many executions, in bounded transactions."""
