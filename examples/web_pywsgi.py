"""Page counters kept in Pegasus, served by gevent's own web server.

    python examples/web_pywsgi.py HOST:PORT[,HOST:PORT] TABLE [PORT]     then: curl http://127.0.0.1:8080/some/page

All requests share one client: each greenlet waits for its own reply on the same few connections.
"""

import signal
import sys

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from pegasus_green import Client, PegasusError

client = Client(sys.argv[1], timeout=5.0)
table = client.table(sys.argv[2])


def count_view(page):
    try:
        return b"%d times" % table.incr(page, b"views")
    except PegasusError as error:
        if not error.outcome_unknown:
            raise
        # Its server died: this view was counted once or not at all, and must not be counted again.
        return b"about %s times" % table.get(page, b"views", default=b"0")


def application(environ, start_response):
    page = environ["PATH_INFO"].encode("latin-1")
    try:
        body, status = b"%s was read %s\n" % (page, count_view(page)), "200 OK"
    except PegasusError as error:
        body, status = f"{type(error).__name__}\n".encode(), "503 Service Unavailable"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    server = WSGIServer(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 8080), application, log=None)
    server.start()
    print(f"ready http://127.0.0.1:{server.server_port}/", flush=True)
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    gevent.signal_handler(signal.SIGINT, stopped.set)
    stopped.wait()
    server.stop(timeout=5)  # requests that have begun may finish
    client.close()
