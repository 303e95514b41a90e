"""What carries messages between relay and workers, ours beside stock Celery's.

One module for each thing that is measured; `sides` are what they compare, `stock` is the peer's Celery app,
`command` puts them together. Empty: the peer's workers import it, and should carry nothing of ours.
"""
