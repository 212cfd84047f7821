"""`python -m companion.app` opens the local app (see `command`)."""

from .command import main

if __name__ == "__main__":
    main()
