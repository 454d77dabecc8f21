"""A crawler with 2,000 greenlets that stores its work list in Pegasus and continues after a kill at any time.

    python examples/crawler.py serve 4000                              the web server: 4,000 pages on 200 sites
    python examples/crawler.py crawl --meta HOST:PORT --table NAME --url http://127.0.0.1:8001/site0/0

Without ``--meta`` it starts an embedded cluster, without ``--url`` a web server, each as a process of its own.

The work list is a `pegasus_green.recipes.Frontier`: one row for each URL. The state of a row changes from todo to busy
to done, in atomic steps. The greenlet that changes a row from todo to busy fetches the page, so each page is fetched
exactly once. After a kill -9, a new crawler with the same name reads the rows. It queues the rows that are todo and
takes over those that are busy. The dead crawler may already have fetched the busy pages, so only these can be fetched
twice.
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
from collections import Counter, defaultdict
from urllib.parse import urlsplit

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pywsgi import WSGIServer

from pegasus_green import Client
from pegasus_green.recipes import Frontier

LINK = re.compile(rb'href="([^"]+)"')


class Site:
    """Limits the load on a site: two requests at the same time, and a pause between the starts of requests."""

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
        while (job := frontier.take()) is not None:
            body = self.fetch(job.item.decode())
            # Add the links before the page is done: if the crawler dies in between, the page is fetched again.
            for link in set(LINK.findall(body)):
                frontier.add(link)
            if frontier.done(job):
                self.pages += 1

    def run(self, count):
        workers = [gevent.spawn(self.work) for _ in range(count)]
        begin = reported = time.monotonic()
        while self.frontier.open:
            gevent.sleep(0.05)
            failed = next((worker for worker in workers if worker.exception), None)
            if failed is not None:  # its row stays busy; the next run takes it over
                raise SystemExit(f"a worker failed: {failed.exception}")
            if time.monotonic() - reported >= 1:
                reported = time.monotonic()
                print(f"  {self.pages} pages, {self.fetching} in flight, {self.frontier.open} to do", flush=True)
        self.frontier.stop(count)
        gevent.joinall(workers)
        return time.monotonic() - begin


def crawl(metas, table_name, url, name, count):
    with Client(metas, timeout=10.0) as client:
        frontier = Frontier(client.table(table_name), name)
        states = frontier.resume()
        if any(states.values()):
            print(f"resumed: {states['done']} done, {states['todo']} to do, {states['busy']} taken over", flush=True)
        frontier.add(url)
        crawler = Crawler(frontier)
        print(f"crawling {url} with {count} greenlets", flush=True)
        seconds = crawler.run(count)
        print(f"done: {crawler.pages} pages, {seconds:.1f} s, at most {crawler.most} in flight")


# ---------------------------------------------------------------------------------------------- the web server
def serve(pages, port, sites=200):
    """Serve pages with links, so that each page can be reached from page 0, and count the requests for each page.

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
    crawling.add_argument("--name", default="example", help="name of the crawl, for one crawler at a time")
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
