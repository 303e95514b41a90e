"""`jobworker up`: all services on one machine, under one supervisor."""
