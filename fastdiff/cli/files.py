"""Files that a command writes when its work is done."""

from __future__ import annotations

import os
from pathlib import Path

from fastdiff.errors import InvalidArgument


def prepare_files(*paths: Path | None) -> None:
    """Make the folders of files, before the work whose results they will hold.

    Raises
    ------
    InvalidArgument
        One of them cannot be written.
    """
    for path in filter(None, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(f"{path} cannot be written: {error}") from error
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InvalidArgument(f"{path} cannot be written: expected a file in a folder of yours")
