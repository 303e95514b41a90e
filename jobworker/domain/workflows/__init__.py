"""Workflows, dependencies, triggers and references to results."""
