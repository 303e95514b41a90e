"""HTTP: what clients may ask, how it is said, and how every error looks. Decisions are made in `services`."""
