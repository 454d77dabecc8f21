"""A mutation: a small change of the source that breaks one rule, and the tests that must fail."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """One rule, broken.

    Attributes:
        name: Its name, which begins with the number of the rule's section.
        rule: What a correct client does.
        path: The file below pegasus_green/.
        old: The text that is replaced; it stands there once.
        new: What it becomes.
        tests: Arguments of pytest; one failure kills the mutant.
    """

    name: str
    rule: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether it is a mutation of the compiled core; the others run without the core."""
        return self.path.endswith(".c")

    def apply(self, root: Path) -> str:
        """Break the rule in a tree; return the file as it was.

        Raises:
            LookupError: The text is not there, or more than once: the mutation is out of date.
        """
        path = root / "pegasus_green" / self.path
        before = path.read_text()
        found = before.count(self.old)
        if found != 1:
            raise LookupError(f"{self.name}: its text stands {found} times in {self.path}")
        path.write_text(before.replace(self.old, self.new))
        return before
