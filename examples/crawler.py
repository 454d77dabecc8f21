"""A crawler of 2,000 greenlets that keeps its frontier and its seen-set in Pegasus, and can be killed at any time.

    python examples/crawler.py serve 4000                              the web server: 4,000 pages on 200 sites
    python examples/crawler.py crawl --meta HOST:PORT --table NAME --url http://127.0.0.1:8001/site0/0

Without ``--meta`` it starts an embedded cluster, without ``--url`` a web server, each as a process of its own.

One row for each URL is frontier and seen-set at once; its value is the state, and every change of state is one
check_and_set, so that no two greenlets, and no two crawlers, can do the same step:

    absent ---NOT_EXIST---> "todo ..." ---BYTES_EQUAL---> "busy ..." ---set, when all its links are rows---> "done ..."

Whoever makes a row knows by that that the URL is new, and queues it; nobody else does. A page is fetched only by the
one who turned its row from todo into busy: exactly once. After a kill -9 a new crawler of the same name reads the rows:
what is todo is queued, what is busy was in the dead one's hands and is taken over. Those few pages it may have fetched
already, so they are the only ones that can be fetched again.
"""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402 - the patch comes before everything else
import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
import zlib
from collections import Counter, defaultdict
from urllib.parse import urlsplit

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pywsgi import WSGIServer
from gevent.queue import Queue

from pegasus_green import CheckType, Client, PegasusError

SHARDS = 64  # hash keys of one crawl, so that its rows lie in all partitions
LINK = re.compile(rb'href="([^"]+)"')


class Frontier:
    """URLs and their states in Pegasus, and those to fetch in a queue."""

    def __init__(self, table, name):
        self.table, self.name = table, name
        self.run = uuid.uuid4().hex[:8]
        self.steps = 0
        self.queue: Queue[tuple[str, bytes] | None] = Queue()
        self.open = 0  # queued, or in the hands of a greenlet

    def key(self, url):
        return f"crawl:{self.name}:{zlib.crc32(url.encode()) % SHARDS:02}"

    def step(self, url, state, check, operand=None):
        """Change a row's state and return the new value, None when somebody else was first.

        Where the reply to a check_and_set is lost, the row tells whether it was applied: no two steps write the same.
        """
        self.steps += 1
        value = f"{state} {self.run} {self.steps}".encode()
        doubt = False
        while True:
            try:
                if self.table.check_and_set(self.key(url), url, check, operand, value=value):
                    return value
                return value if doubt and self.table.get(self.key(url), url) == value else None
            except PegasusError as error:
                if not error.outcome_unknown:
                    raise
                doubt = True

    def add(self, url):
        value = self.step(url, "todo", CheckType.NOT_EXIST)
        if value is not None:
            self.enqueue(url, value)

    def enqueue(self, url, value):
        self.open += 1
        self.queue.put((url, value))

    def claim(self, url, value):
        return self.step(url, "busy", CheckType.BYTES_EQUAL, value) is not None

    def done(self, url, size):
        self.table.set(self.key(url), url, f"done {self.run} {size}")

    def resume(self):
        """Queue what earlier runs of this name left; return how many rows there are in each state."""
        states: Counter[str] = Counter()
        for shard in range(SHARDS):
            for url, value in self.table.hash_scan(f"crawl:{self.name}:{shard:02}"):
                state = value.split()[0].decode()
                states[state] += 1
                if state != "done":
                    self.enqueue(url.decode(), value)
        return states


class Site:
    """Politeness: at most two requests to a site at once, and a pause between the beginnings of two."""

    PAUSE = 0.005

    def __init__(self):
        self.places = BoundedSemaphore(2)
        self.next = 0.0

    @contextlib.contextmanager
    def turn(self):
        with self.places:
            now = time.monotonic()
            begin = max(now, self.next)
            self.next = begin + self.PAUSE
            gevent.sleep(begin - now)
            yield


class Crawler:
    def __init__(self, frontier):
        self.frontier = frontier
        self.sites = defaultdict(Site)
        self.pages = self.fetching = self.most = 0

    def fetch(self, url):
        parts = urlsplit(url)
        with self.sites[parts.netloc + parts.path.split("/")[1]].turn():
            self.fetching += 1
            self.most = max(self.most, self.fetching)
            connection = http.client.HTTPConnection(parts.netloc, timeout=30)
            try:
                connection.request("GET", parts.path)
                return connection.getresponse().read()
            finally:
                connection.close()
                self.fetching -= 1

    def work(self):
        frontier = self.frontier
        while True:
            job = frontier.queue.get()
            if job is None:
                return
            url, value = job
            if frontier.claim(url, value):
                body = self.fetch(url)
                # First the links, then the page itself: a crawler that dies in between leaves it to be done again.
                for link in set(LINK.findall(body)):
                    frontier.add(link.decode())
                frontier.done(url, len(body))
                self.pages += 1
            frontier.open -= 1

    def run(self, count):
        workers = [gevent.spawn(self.work) for _ in range(count)]
        begin = reported = time.monotonic()
        while self.frontier.open:
            gevent.sleep(0.05)
            failed = next((worker for worker in workers if worker.exception), None)
            if failed is not None:  # its row stays busy, for the next run
                raise SystemExit(f"a worker failed: {failed.exception}")
            if time.monotonic() - reported >= 1:
                reported = time.monotonic()
                print(f"  {self.pages} pages, {self.fetching} in the air, {self.frontier.open} to do", flush=True)
        for _ in workers:
            self.frontier.queue.put(None)
        gevent.joinall(workers)
        return time.monotonic() - begin


def crawl(metas, table_name, url, name, count):
    with Client(metas, timeout=10.0) as client:
        frontier = Frontier(client.table(table_name), name)
        states = frontier.resume()
        if states:
            print(f"resumed: {states['done']} done, {states['todo']} to do, {states['busy']} taken over", flush=True)
        frontier.add(url)
        crawler = Crawler(frontier)
        print(f"crawling {url} with {count} greenlets", flush=True)
        seconds = crawler.run(count)
        print(f"done: {crawler.pages} pages, {seconds:.1f} s, at most {crawler.most} in the air")


# ---------------------------------------------------------------------------------------------- the web server
def serve(pages, port, sites=200):
    """Serve pages that link to others, so that each can be reached from page 0, and count how often each is asked for.

    /hits returns the counts.
    """
    hits: Counter[str] = Counter()

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/hits":
            body = json.dumps(hits).encode()
        else:
            hits[path] += 1
            gevent.sleep(0.02)
            number = int(path.rpartition("/")[2])
            root = f"http://{environ['HTTP_HOST']}"
            links = {2 * number + 1, 2 * number + 2, (31 * number + 7) % pages, 0}
            urls = [f"{root}/site{link % sites}/{link}" for link in sorted(links) if link < pages]
            body = "\n".join(f'<a href="{url}">{url}</a>' for url in urls).encode()
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(body)))])
        return [body]

    server = WSGIServer(("127.0.0.1", port), application, log=None, backlog=2048)
    server.start()
    print(f"ready http://127.0.0.1:{server.server_port}/site0/0", flush=True)
    server.serve_forever()


@contextlib.contextmanager
def own_web_server(pages):
    command = [sys.executable, os.path.abspath(__file__), "serve", str(pages), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


def main():
    parser = argparse.ArgumentParser(description="crawl with the frontier in Pegasus")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("pages", type=int)
    serving.add_argument("--port", type=int, default=8001)
    crawling = commands.add_parser("crawl")
    crawling.add_argument("--meta")
    crawling.add_argument("--table", default="temp")
    crawling.add_argument("--url")
    crawling.add_argument("--name", default="example", help="of the crawl; one crawler of a name at a time")
    crawling.add_argument("--greenlets", type=int, default=2000)
    options = parser.parse_args()
    if options.command == "serve":
        serve(options.pages, options.port)
        return
    with contextlib.ExitStack() as stack:
        metas = options.meta
        if metas is None:
            from pegasus_green.onebox import Onebox

            metas = stack.enter_context(Onebox(tables={options.table: 8}, process=True)).meta_addresses
        url = options.url or stack.enter_context(own_web_server(4000))
        crawl(metas, options.table, url, options.name, options.greenlets)


if __name__ == "__main__":
    main()
