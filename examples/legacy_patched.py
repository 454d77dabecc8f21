"""An application with threads that uses the documented API and becomes a gevent program by one patch at its start.

    python examples/legacy_patched.py HOST:PORT[,HOST:PORT] TABLE [--late]

It fetches pages from a web server over blocking HTTP, with worker threads, a queue and logging, and stores the results
in Pegasus. Its own code does not use greenlets. After the patch, its threads are greenlets of one hub and share one
client. With ``--late``, the patch comes after the imports. Names that were imported from a module before the patch are
then not patched, and the application prints a warning for each of them.
"""

import sys

LATE = "--late" in sys.argv
if not LATE:
    from gevent import monkey

    monkey.patch_all()

# ------------------------------------------------------------------------------- the application, unchanged
# ruff: noqa: E402 - the patch comes before everything else
import argparse
import http.server
import logging
import queue
import threading
import urllib.request
import warnings
from time import sleep

from pegasus_green import Pegasus, error_types

WORKERS, PAGES = 20, 200
log = logging.getLogger("legacy")


class Site(http.server.BaseHTTPRequestHandler):
    """The web server with the pages. It answers each request after a delay."""

    def do_GET(self):
        sleep(0.01)
        body = f"this is {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):  # noqa: A002 - the name is the base class's
        pass


class WebServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # the default is 5; a sixth simultaneous connection would wait for a second


def work(site, jobs, pegasus, failures):
    while True:
        number = jobs.get()
        if number is None:
            return
        with urllib.request.urlopen(f"{site}/page/{number}", timeout=10) as answer:
            body = answer.read()
        code, _ = pegasus.set("legacy pages", f"{number:05}", body, 3600, 2000)
        if code != error_types.ERR_OK.value:
            log.error("page %d was not stored: %s", number, error_types(code).name)
            failures.append(number)


def run(metas, table):
    pegasus = Pegasus(metas, table)
    if not pegasus.init():
        raise SystemExit("ERROR: connect pegasus server failed")
    server = WebServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_address[1]}"
    jobs: queue.Queue[int | None] = queue.Queue()
    failures: list[int] = []
    threads = [threading.Thread(target=work, args=(site, jobs, pegasus, failures)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for number in [*range(PAGES), *[None] * WORKERS]:
        jobs.put(number)
    for thread in threads:
        thread.join()
    server.shutdown()
    code, count = pegasus.sort_key_count("legacy pages")
    log.info("stored pages: code %d, %d of %d, %d failures", code, count, PAGES, len(failures))
    pegasus.multi_del("legacy pages", {f"{number:05}" for number in range(PAGES)})
    pegasus.close()
    return 0 if count == PAGES and not failures else 1


# ------------------------------------------------------------------------------------------------- the start
def warn_of_early_names():
    """Warn of each name that was imported before the patch: its calls block every greenlet of this thread."""
    import time

    for name, here, now in [("sleep", sleep, time.sleep)]:
        if here is not now:
            message = f"{name} was imported before monkey.patch_all(): while it waits, nothing else runs. Patch first."
            warnings.warn(message, RuntimeWarning, stacklevel=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meta", help="meta servers, HOST:PORT[,HOST:PORT]")
    parser.add_argument("table", help="an existing table")
    parser.add_argument("--late", action="store_true", help="patch after the imports")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(threadName)s] %(levelname)s %(message)s")
    if LATE:
        from gevent import monkey

        monkey.patch_all()
    warn_of_early_names()
    sys.exit(run(options.meta.split(","), options.table))
