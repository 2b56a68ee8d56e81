"""Where fastdiff keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

_NOWHERE = Path(os.devnull)


def cache_folder() -> Path:
    """Return ``$FASTDIFF_CACHE``, else ``fastdiff`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.

    For a user without a home it is a path under which nothing can be written.
    """
    if named := os.environ.get("FASTDIFF_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "fastdiff"
    try:
        return Path.home() / ".cache" / "fastdiff"
    except RuntimeError:  # as in a container that runs under a number without a name
        return _NOWHERE / "fastdiff"
