"""What bodies look like. Requests are checked against these; answers are written straight and only described here."""
