"""Redis: the messages to workers, the streams from them, and what both sides agree on."""
