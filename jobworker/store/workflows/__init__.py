"""SQL of dependencies, batches and triggers."""
