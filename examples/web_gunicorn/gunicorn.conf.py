"""gunicorn with gevent workers that loads the application before the fork and ends without losing a request."""

# Patch first: gunicorn itself patches when a worker starts, which is after the import of the application.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

bind = os.environ.get("BIND", "127.0.0.1:8000")
worker_class = "gevent"
workers = int(os.environ.get("WORKERS", "2"))
worker_connections = 1000
preload_app = True
chdir = os.path.dirname(os.path.abspath(__file__))
# After SIGTERM, gunicorn accepts no new connection, and running requests have this many seconds to finish.
graceful_timeout = 15
timeout = 30


def worker_exit(server, worker):
    """Let the last calls finish, then close this worker's connections."""
    from app import client  # type: ignore[import-not-found] # gunicorn finds it next to this file

    client.close(drain=1.0)
