"""HTTP against the real application on a migrated database; each answer is held against the API's description."""
