"""Storage of the files that jobs save: one module for each kind."""
