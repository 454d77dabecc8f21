"""Page counters kept in Pegasus, served by gevent's own web server.

    python examples/web_pywsgi.py HOST:PORT[,HOST:PORT] TABLE [PORT]     then: curl http://127.0.0.1:8080/some/page

All requests share one client with one connection to each server. GET /health answers 200 if every server of the table
answers, else 503. After SIGTERM, the server accepts no new connection, and running requests can finish.
"""

import argparse
import signal

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from pegasus_green import Client, PegasusError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("meta", help="meta servers, HOST:PORT[,HOST:PORT]")
parser.add_argument("table", help="an existing table")
parser.add_argument("port", type=int, nargs="?", default=8080, help="port to serve at, 0: a free one [%(default)s]")
options = parser.parse_args()

client = Client(options.meta, timeout=5.0)
table = client.table(options.table)


def count_view(page):
    try:
        return b"%d times" % table.incr(page, b"views")
    except PegasusError as error:
        if not error.outcome_unknown:
            raise
        # The server died: this view was counted once or not at all. Do not count it again.
        return b"about %s times" % table.get(page, b"views", default=b"0")


def respond(path):
    if path == "/health":
        for error in client.check(options.table, timeout=1.0).values():
            raise error
        return b"ok\n"
    page = path.encode("latin-1")
    return b"%s was read %s\n" % (page, count_view(page))


def application(environ, start_response):
    try:
        body, status = respond(environ["PATH_INFO"]), "200 OK"
    except PegasusError as error:
        body, status = f"{type(error).__name__}\n".encode(), "503 Service Unavailable"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    # Only a server with a pool of its own waits for running requests when it stops.
    server = WSGIServer(("127.0.0.1", options.port), application, log=None, spawn=Pool(1000))
    server.start()
    print(f"ready http://127.0.0.1:{server.server_port}/", flush=True)
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    gevent.signal_handler(signal.SIGINT, stopped.set)
    stopped.wait()
    server.stop(timeout=10)  # longer than the timeout of a call
    client.close()
