"""HTTP tests of the real application on a migrated database; each response is checked against the API's description."""
