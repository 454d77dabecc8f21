"""Access control: the users who may use a table."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidArgument
from .base import AdminBase, text_of

ALLOWED_USERS = "replica_access_controller.allowed_users"
# Numbers of the operations on table envs in the protocol.
_SET, _DELETE = 1, 2


class AccessAdmin(AdminBase):
    """Methods for the allowed users of a table."""

    def allowed_users(self, name: str, *, timeout: float | None = None) -> list[str]:
        """Return the users who may use a table besides the super users. An empty list means that every user may.

        The super users are in the configuration of the servers.

        Raises:
            TableNotFound: There is no such table.

        Example:
            >>> client.admin.allowed_users("temp")
            []
        """
        envs = self._find(text_of(name, "table name"), self._deadline(timeout)).envs
        return [user for user in (part.strip() for part in envs.get(ALLOWED_USERS, "").split(",")) if user]

    def set_allowed_users(self, name: str, users: Iterable[str], *, timeout: float | None = None) -> None:
        """Allow only these users, and the super users, to use a table. Replicas apply the change within 30 s.

        Args:
            name: The table.
            users: Names as the servers know them: the principal "app/host@REALM" is the user "app". Not empty, because
                an empty list would allow every user: use ``allow_all_users`` for that.
            timeout: Seconds for the whole call.

        Raises:
            TableNotFound: There is no such table.
            InvalidArgument: There are no users, users is a single str, or a name is invalid.
            AccessDenied: This client's user is not a super user.

        Example:
            >>> client.admin.set_allowed_users("temp", ["app", "reports"])
            >>> client.admin.allowed_users("temp")
            ['app', 'reports']
        """
        if isinstance(users, (str, bytes)):
            raise InvalidArgument(f"users must be an iterable of names, not {users!r}")
        names = [text_of(user, "user") for user in users]
        if not names:
            raise InvalidArgument("users must not be empty: allow_all_users() allows every user")
        for user in names:
            if not user or set(user) & set(",@/ \t\n"):
                raise InvalidArgument(f"a user name cannot be empty or contain a comma, @, / or blank: {user!r}")
        deadline = self._deadline(timeout)
        self._update_envs(
            text_of(name, "table name"), deadline, _SET, keys=[ALLOWED_USERS], values=[",".join(dict.fromkeys(names))]
        )

    def allow_all_users(self, name: str, *, timeout: float | None = None) -> None:
        """Allow every user to use a table. Replicas apply the change within 30 s.

        Raises:
            TableNotFound: There is no such table.
            AccessDenied: This client's user is not a super user.

        Example:
            >>> client.admin.set_allowed_users("temp", ["app"])
            >>> client.admin.allow_all_users("temp")
            >>> client.admin.allowed_users("temp")
            []
        """
        self._update_envs(text_of(name, "table name"), self._deadline(timeout), _DELETE, keys=[ALLOWED_USERS])
