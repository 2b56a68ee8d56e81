"""Where fastdiff keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$FASTDIFF_CACHE``, else ``fastdiff`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("FASTDIFF_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "fastdiff"
