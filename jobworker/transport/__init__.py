"""Redis: the messages to workers, the streams of events and logs, and the key layout that all processes share."""
