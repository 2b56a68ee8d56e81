"""Networks as plans of kernel calls: what the native CPU backend runs.

::

    torch.export -> reading -> fusion, maps, placement -> memory -> Plan -> binding -> _native
                    Graph of nodes on values                        |
                                                                    reference: float64, no kernels
"""

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes import Conv
from fastdiff.native.plan import Buffer, Plan
from fastdiff.native.planning.building import build_plan, make_plan, plan_network
from fastdiff.native.planning.graph import OUTPUT, Graph
from fastdiff.native.reading.program import read_graph
from fastdiff.native.reference import run_reference
from fastdiff.native.running.binding import bind, check_weights
from fastdiff.native.running.choosing import choose
from fastdiff.native.running.packing import Arrays, pack

__all__ = [
    "OUTPUT",
    "Algorithm",
    "Arrays",
    "Buffer",
    "Conv",
    "Graph",
    "Plan",
    "bind",
    "build_plan",
    "check_weights",
    "choose",
    "make_plan",
    "pack",
    "plan_network",
    "read_graph",
    "run_reference",
]
