"""sciinv: from a measurement file to posterior samples, uncertainty maps and a report on how far to trust them."""

__version__ = "0.1.0"
