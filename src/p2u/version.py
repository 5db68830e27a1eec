"""The version of the distribution, ``p2u.__version__``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

#: Name of the distribution.
DISTRIBUTION = "p2u-models"


def installed_version() -> str:
    """The version that is installed; ``0+unknown`` in a source tree that is not."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+unknown"


__version__ = installed_version()
