"""The sampling loop: rows of any request, solver and step share every call of the network.

::

    Request -> batcher: whose turn is it -> engine: one tick -> executor: host or graphs -> kernels
               policies: who goes first     batch: what runs    buffers: a slot for each row
"""

from fastdiff.engine.engine import Engine
from fastdiff.engine.requests import Request, StepInfo, Ticket

__all__ = ["Engine", "Request", "StepInfo", "Ticket"]
