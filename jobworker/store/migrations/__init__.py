"""The steps that lead from an empty database to `store.schema`; `store.migrate` walks them."""
