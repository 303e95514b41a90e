"""kombu's Redis transport, adapted for workers: see `channel`."""
