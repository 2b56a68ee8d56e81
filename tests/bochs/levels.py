"""Fail unless every instruction level runs here, since tests skip a level that does not."""

from fastdiff import _native

levels = _native.network_levels()
print("emulated: the levels are", *levels)
if lacking := {name: reason for name, reason in levels.items() if reason}:
    raise SystemExit(f"emulated: these are not usable: {lacking}")
