"""Rules: one module for each kind of rule, all of them pure functions of time."""
