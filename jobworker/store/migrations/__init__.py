"""Migrations from an empty database to the schema of `store.tables.core`; `store.migrate` runs them."""
