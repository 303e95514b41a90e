"""Job definitions: parameters, policies, and their checks."""
