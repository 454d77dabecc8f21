"""`make bench` and `make bench-quick`: see --help, and docs/performance.md for the method."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script this file is no part of a package; the parts of the benchmark are.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.main import main

    sys.exit(main())
