"""Everything around the method: weights, data, judges, training, studies, records and pages. It knows files, and imports `smoothlib`."""

from smoothlib import __version__

__all__ = ["__version__"]
