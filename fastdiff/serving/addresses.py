"""Where a server's images are, for its clients."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from fastdiff.serving.answers import FILES


def file_urls(scope: Scope, public_url: str) -> Callable[[str], str]:
    """Return what makes the URL of a stored image of its name.

    Headers such as ``Host`` and ``X-Forwarded-Proto`` decide nothing: whoever sends a request can
    write them.

    Parameters
    ----------
    scope : Scope
        Of the request that asked for the image.
    public_url : str
        What the URLs begin with; if it is empty, the address that took the request.
    """
    base = public_url.rstrip("/") or _own_url(scope)
    return lambda name: f"{base}{FILES}{name}"


def _own_url(scope: Scope) -> str:
    """Return where the request came in, or no more than the path if that has no address."""
    path: str = scope.get("root_path", "")
    if scope.get("server") is None:
        return path
    host, port = scope["server"]
    shown = f"[{host}]" if ":" in host else host
    return f"{scope['scheme']}://{shown}{'' if port is None else f':{port}'}{path}"
