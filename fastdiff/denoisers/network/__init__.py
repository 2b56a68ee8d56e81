"""Networks as plans of kernel calls: what the native CPU engine runs.

::

    torch.export -> reading -> fusion, maps, placement -> memory -> Plan -> binding -> _native
                    Graph of nodes on values                        |
                                                                    reference: float64, no kernels
"""

from fastdiff.denoisers.network.binding import bind, check_weights
from fastdiff.denoisers.network.building import build_plan, make_plan, plan_network
from fastdiff.denoisers.network.choosing import choose
from fastdiff.denoisers.network.graph import OUTPUT, Graph
from fastdiff.denoisers.network.nodes import Conv
from fastdiff.denoisers.network.packing import Arrays, Choice, pack
from fastdiff.denoisers.network.plan import Buffer, Plan
from fastdiff.denoisers.network.reading import read_graph
from fastdiff.denoisers.network.reference import run_reference

__all__ = [
    "OUTPUT",
    "Arrays",
    "Buffer",
    "Choice",
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
