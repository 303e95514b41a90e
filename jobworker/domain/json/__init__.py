"""JSON from clients: strict reading, the values that are kept, and merge patches."""
