"""JSON from clients: strict parsing, rules for stored values, and merge patches."""
