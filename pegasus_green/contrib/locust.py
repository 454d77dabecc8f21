"""Load tests with Locust: a User whose calls are requests in Locust's statistics.

::

    class Reader(PegasusUser):
        @task
        def read(self):
            self.table.get("user:7", "name")

    locust -f locustfile.py --host pegasus://10.0.0.1:34601/temp --headless -u 100 -r 100 -t 1m

Each request of the client is one request in Locust's statistics, with type ``pegasus`` and a name such as ``get temp``.
This includes each request of a bulk verb and each batch of a scan. A failed call is a failure with the class and code
of its error. A call that ends because Locust stops its user is neither a request nor a failure.

Importing this module imports Locust, which calls ``gevent.monkey.patch_all()``.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from gevent import GreenletExit
from locust import User
from locust.env import Environment

from ..client import Table
from ..errors import InvalidArgument, PegasusError
from ..events import Listener
from ..shared import shared_table

# Reporters of each environment by URL. The users of one process share a client, so they share its reporter.
_reporters: WeakKeyDictionary[Environment, dict[str, PegasusReporter]] = WeakKeyDictionary()


class PegasusReporter(Listener):
    """Reports the calls of a client to Locust as requests. Use it for a client that no ``PegasusUser`` made.

    Args:
        environment: Locust's environment.

    Example:
        >>> client.add_listener(PegasusReporter(environment))
    """

    def __init__(self, environment: Environment) -> None:
        self._fire = environment.events.request.fire

    def call_finished(
        self,
        table: str,
        operation: str,
        seconds: float,
        error: BaseException | None,
        attempts: int,
        hedged: bool,  # noqa: FBT001 - the listener's
        server: str,
    ) -> None:
        """Report a call that has ended."""
        if isinstance(error, GreenletExit):
            return
        self._fire(
            request_type="pegasus",
            name=f"{operation} {table}",
            response_time=seconds * 1000,
            response_length=0,
            exception=_told(error),
            context={"server": server, "attempts": attempts, "hedged": hedged},
        )


class Failed(Exception):
    """The exception that Locust groups failures by: class and code of the error, without facts of the single call."""


def _told(error: BaseException | None) -> BaseException | None:
    """Return the error for Locust, which makes a row for each different text."""
    if not isinstance(error, PegasusError):
        return error
    told = Failed(" ".join(filter(None, (type(error).__name__, error.code))))
    told.__cause__ = error
    return told


class PegasusUser(User):
    """A user of a Pegasus table. Derive from it and add tasks.

    All users of a process with the same URL share one client, like the greenlets of an application. The URL is
    ``--host`` or the class attribute ``host``.

    Attributes:
        table: The table that the URL names.

    Example:
        >>> class Reader(PegasusUser):
        ...     host = "pegasus://127.0.0.1:34601/temp"
        ...
        ...     @task
        ...     def read(self):
        ...         self.table.get("user:7", "name")
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        url: Any = self.host
        if not url:
            raise InvalidArgument(
                "PegasusUser needs a URL: locust --host pegasus://host:port/table, or the class attribute host"
            )
        self.table: Table[bytes] = shared_table(url)
        reporters = _reporters.setdefault(environment, {})
        if url not in reporters:
            reporters[url] = PegasusReporter(environment)
            self.table.client.add_listener(reporters[url])
