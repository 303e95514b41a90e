"""Job definitions: parameters, policies, and the checks of submissions."""
