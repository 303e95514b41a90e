"""Database engines, transactions and the limits that they keep."""
