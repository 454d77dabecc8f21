"""`make bench` and `make bench-quick`: see --help, and docs/performance.md for the method."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This file runs as a script outside a package, but it imports the package benchmarks.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.main import main

    sys.exit(main())
