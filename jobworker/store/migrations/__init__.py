"""The steps that lead from an empty database to `store.tables.core`; `store.migrate` walks them."""
