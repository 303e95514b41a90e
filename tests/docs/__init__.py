"""The documentation says what the code does, or a test fails."""
