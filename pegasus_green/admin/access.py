"""Which users may use a table, on clusters with access control."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidArgument
from .base import AdminBase, text_of

ALLOWED_USERS = "replica_access_controller.allowed_users"
# Operations on a table's environment, as the wire numbers them.
_SET, _DELETE = 1, 2


class AccessAdmin(AdminBase):
    """The verbs on allowed users."""

    def allowed_users(self, name: str, *, timeout: float | None = None) -> list[str]:
        """Return the users who may use a table besides the super users; empty: every user.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.allowed_users("temp")
            []
        """
        envs = self._find(text_of(name, "table name"), self._deadline(timeout)).envs
        return [user for user in (part.strip() for part in envs.get(ALLOWED_USERS, "").split(",")) if user]

    def set_allowed_users(self, name: str, users: Iterable[str], *, timeout: float | None = None) -> None:
        """Let only these users, and the super users, use a table. Replicas follow within 30 s.

        Args:
            name: The table.
            users: Names as the servers know them: the principal "app/host@REALM" is the user "app". Not none, since
                an empty list would let everybody in: see ``allow_all_users``.
            timeout: Seconds for all of it.

        Raises:
            TableNotFound: There is no such table.
            InvalidArgument: No users, a single text, or a name that cannot be one.
            AccessDenied: This client's user is no super user.

        Example:
            >>> client.admin.set_allowed_users("temp", ["app", "reports"])
            >>> client.admin.allowed_users("temp")
            ['app', 'reports']
        """
        if isinstance(users, (str, bytes)):
            raise InvalidArgument(f"users must be an iterable of names, not {users!r}")
        names = [text_of(user, "user") for user in users]
        if not names:
            raise InvalidArgument("users must not be empty: allow_all_users lets everybody in")
        for user in names:
            if not user or set(user) & set(",@/ \t\n"):
                raise InvalidArgument(f"a user is a name without , @ / and blanks, not {user!r}")
        deadline = self._deadline(timeout)
        self._update_envs(
            text_of(name, "table name"), deadline, _SET, keys=[ALLOWED_USERS], values=[",".join(dict.fromkeys(names))]
        )

    def allow_all_users(self, name: str, *, timeout: float | None = None) -> None:
        """Let every user use a table. Replicas follow within 30 s.

        Raises:
            TableNotFound: There is no such table.
            AccessDenied: This client's user is no super user.

        Example:
            >>> client.admin.set_allowed_users("temp", ["app"])
            >>> client.admin.allow_all_users("temp")
            >>> client.admin.allowed_users("temp")
            []
        """
        self._update_envs(text_of(name, "table name"), self._deadline(timeout), _DELETE, keys=[ALLOWED_USERS])
