"""The whole house beside bare Celery: from an HTTP request to a row in SQL.

Empty: the peer's workers import it, and should carry nothing of ours.
"""
