"""gunicorn with gevent workers, the application loaded before the fork, and an end that loses no request."""

# First of all: gunicorn itself patches only when a worker starts, which is late for what the application imported.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

bind = os.environ.get("BIND", "127.0.0.1:8000")
worker_class = "gevent"
workers = int(os.environ.get("WORKERS", "2"))
worker_connections = 1000
preload_app = True
chdir = os.path.dirname(os.path.abspath(__file__))
# On SIGTERM no new connection is taken, and requests that have begun have this many seconds to finish.
graceful_timeout = 15
timeout = 30


def worker_exit(server, worker):
    """Let the last calls finish, then close this worker's connections."""
    from app import client  # type: ignore[import-not-found] # it is beside this file, where gunicorn looks

    client.close(drain=1.0)
