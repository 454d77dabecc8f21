"""A Flask application with sessions, cached pages, a rate limit, metrics and a health page, all of them in Pegasus.

    pip install flask flask-session flask-caching flask-limiter prometheus-client gunicorn
    cd examples
    PEGASUS_URL=pegasus://127.0.0.1:34601/temp gunicorn -k gevent -w 2 flask_app:app

All parts share one client in each worker. With several workers, PROMETHEUS_MULTIPROC_DIR must name a directory for the
metrics.
"""

import os

from flask import Flask, Response, session
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_session import Session
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

import pegasus_green.contrib.limits  # noqa: F401 - registers the scheme pegasus:// for Flask-Limiter
from pegasus_green import PegasusError, shared_client
from pegasus_green.contrib.cachelib import PegasusCache
from pegasus_green.contrib.prometheus import PegasusMetrics

URL = os.environ.get("PEGASUS_URL", "pegasus://127.0.0.1:34601/temp?timeout=5")

app = Flask(__name__)
app.config.update(
    SESSION_TYPE="cachelib",
    SESSION_CACHELIB=PegasusCache(URL, key_prefix="session:"),
    CACHE_TYPE="pegasus_green.contrib.cachelib.flask_cache",
    CACHE_OPTIONS={"url": URL, "key_prefix": "page:"},
    RATELIMIT_STORAGE_URI=URL,
    # A request passes if it cannot be counted.
    RATELIMIT_SWALLOW_ERRORS=True,
)
Session(app)
pages = Cache(app)
limiter = Limiter(get_remote_address, app=app)
shared_client(URL).add_listener(PegasusMetrics())


@app.get("/visits")
def visits():
    session["visits"] = session.get("visits", 0) + 1
    return f"visit {session['visits']}"


@app.get("/page")
@pages.cached(timeout=60)
def page():
    return "a page that is hard to make"


@app.get("/limited")
@limiter.limit(os.environ.get("LIMIT", "5/minute"))
def limited():
    return "not too often"


@app.get("/metrics")
def metrics():
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), mimetype="text/plain")


@app.get("/health")
def health():
    try:
        return f"the cluster answers in {shared_client(URL).ping(timeout=1.0) * 1000:.1f} ms"
    except PegasusError as error:
        return str(error), 503
