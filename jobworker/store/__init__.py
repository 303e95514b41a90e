"""SQL: the only package that contains SQL. Functions take an open transaction and never commit."""
