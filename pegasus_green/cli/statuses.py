"""The exit statuses of all commands, also of those that need no click."""

from __future__ import annotations

from ..errors import ConnectFailed, ConnectionLost, InvalidArgument, MetaUnreachable, PegasusError, RequestTimeout

OK, NO, USAGE, REFUSED, UNREACHABLE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_STATUSES = """\b
Exit status:
  0  done
  1  the answer is no: no such row, check not passed, not healthy
  2  the command line is wrong; nothing was sent
  3  refused by the cluster
  4  the cluster or a server cannot be reached in time
  5  some rows or servers failed
  130  interrupted"""


def status_of(error: PegasusError) -> int:
    """Return the exit status of a command that an error ends."""
    if isinstance(error, InvalidArgument):
        return USAGE
    if isinstance(error, (RequestTimeout, MetaUnreachable, ConnectFailed, ConnectionLost)):
        return UNREACHABLE
    return REFUSED
