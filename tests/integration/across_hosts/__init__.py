"""Limits and order with real workers on several hosts."""
