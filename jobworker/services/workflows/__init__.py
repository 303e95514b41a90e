"""Batches, workflows, triggers, and the resolution of dependencies."""
