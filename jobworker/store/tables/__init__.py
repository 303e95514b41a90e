"""Definitions of the SQL tables."""
