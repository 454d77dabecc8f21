"""The suite in other environments: `python -m tests.lanes [oldest] [3.10] [3.12] ...`; without names all of them.

oldest has exactly the floors of requirements.txt, under the oldest Python found that has wheels for them; the others
have the newest dependencies. Each lane has its own venv under .lanes/. What this machine lacks is said to be left out.
"""

from __future__ import annotations

import subprocess
import sys
import time

from tests.pythons import ROOT, find, last_words, make_venv

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def run(name: str) -> tuple[str, bool]:
    """Run one lane; return what to say of it and whether it passed or was left out."""
    oldest = name == "oldest"
    python = next(filter(None, map(find, PYTHONS[:3])), None) if oldest else find(name)
    if python is None:
        return "left out: no such Python here", True
    place = ROOT / ".lanes" / name
    place.parent.mkdir(exist_ok=True)
    constraints = None
    if oldest:
        constraints = ROOT / ".lanes" / "oldest.txt"
        constraints.write_text((ROOT / "requirements.txt").read_text().replace(">=", "=="))
    try:
        interpreter = make_venv(python, place, "--editable", ".[dev]", constraints=constraints)
    except subprocess.CalledProcessError as error:
        return f"FAILED to install: {last_words(error)}", False
    started = time.monotonic()
    passed = True
    for mode in ([], ["-p", "tests.patched", "-m", "both_modes and not slow and not soak"]):
        command = [interpreter, "-m", "pytest", "-q", *(mode or ["-m", "not slow and not soak and not peer"])]
        passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0 and passed
    return f"{'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s ({python})", passed


def main(names: list[str]) -> int:
    """Run the named lanes, print the result of each, return the exit status."""
    results = {}
    for name in names or ["oldest", *(v for v in PYTHONS if v != "{}.{}".format(*sys.version_info))]:
        print(f"== lane {name}", flush=True)
        results[name] = run(name)
    for name, (words, _) in results.items():
        print(f"lane {name:7} {words}")
    return 0 if all(passed for _, passed in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
