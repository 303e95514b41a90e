"""Where files that jobs leave behind are kept: one module for each kind of place."""
