"""Use cases: each function is one use case, in one transaction. HTTP and the CLI call these functions."""
