"""`python -m companion.evidence show FILE` prints a record as text (see `records`)."""

import sys

from .records import main

if __name__ == "__main__":
    sys.exit(main())
