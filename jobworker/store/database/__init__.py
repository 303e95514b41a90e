"""Database engines, transactions and their limits."""
