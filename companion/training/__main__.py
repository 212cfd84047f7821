"""`python -m companion.training --config FILE` trains (see `loop`)."""

from .loop import main

if __name__ == "__main__":
    main()
