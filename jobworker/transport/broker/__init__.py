"""kombu's Redis transport, as workers need it: see `channel`."""
