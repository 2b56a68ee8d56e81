"""Telling the compiled code of this user from that of others.

Compiled code (a shared library, a backend plan) does whatever its author likes when it is loaded.
Hashes do not help: who writes the code writes the hash as well. So fastdiff signs what it compiles
with a key that lies in the user's own cache folder, and runs only what bears that signature. Who
can read the key can have code run by this user's fastdiff: it is as private as an SSH key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any

from filelock import FileLock

from fastdiff.storing.cache import Cache

_KEY_BYTES = 32


def sign(content: Any) -> str:
    """Return what only holders of this user's key can say of `content`, plain JSON values.

    Empty where the cache folder cannot be written, so that there can be no key.
    """
    try:
        key = _key()
    except (OSError, NotImplementedError):
        return ""
    text = json.dumps(content, sort_keys=True).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def is_own(content: Any, signature: str) -> bool:
    """Whether `sign` gave `signature` to `content` here."""
    own = sign(content)
    return bool(own) and hmac.compare_digest(own.encode(), signature.encode())


def _key() -> bytes:
    """Read this user's key; make it first if there is none."""
    folder = Cache().folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, partial = folder / "signing.key", folder / ".signing.key.partial"
    with FileLock(folder / "signing.key.lock"):
        if not path.exists():
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
            partial.replace(path)
    return path.read_bytes()
