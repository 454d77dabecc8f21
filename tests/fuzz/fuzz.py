"""Coverage-guided fuzzing with atheris, which is no dependency of the project (`pip install atheris`).

`python -m tests.fuzz.fuzz reply -max_total_time=60`; the first word is the target, the others are libFuzzer's. New
inputs go to a directory of their own, named first; the corpus beside this file is read too.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """Fuzz one target until libFuzzer ends it."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["pegasus_green.protocol", "pegasus_green.onebox.wire.frames"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    if not arguments or arguments[0] not in targets:
        sys.exit(f"usage: python -m tests.fuzz.fuzz {{{'|'.join(targets)}}} [DIRECTORY] [-libfuzzer_option=...]")
    name, *rest = arguments
    corpus = [str(Path(__file__).parent / "corpus" / name)]
    if all(word.startswith("-") for word in rest):
        corpus.insert(0, tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    target = targets[name]

    def one_input(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *rest, *corpus], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
