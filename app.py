"""The WSGI application for servers: `granian --interface wsgi app:app`."""

from jobworker.web import create_app

app = create_app()
