"""Measuring fastdiff beside its peers: `fastdiff bench`."""

from fastdiff.bench.contenders import BASELINE, PEERS
from fastdiff.bench.html import to_html
from fastdiff.bench.results import Result, describe_run, to_json, to_table
from fastdiff.bench.running import Comparison, run

__all__ = [
    "BASELINE",
    "PEERS",
    "Comparison",
    "Result",
    "describe_run",
    "run",
    "to_html",
    "to_json",
    "to_table",
]
