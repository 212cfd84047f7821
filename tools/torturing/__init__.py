"""The cases of `make torture`."""
