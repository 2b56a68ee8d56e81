"""The kinds of node that a plan consists of, one file each: importing this registers them all.

`Node` says what a kind is. Its kernel is the header of the same name under ``csrc/network``.
"""

import importlib
import pkgutil

from fastdiff.native.nodes.attention import Attention
from fastdiff.native.nodes.conv import Conv
from fastdiff.native.nodes.gather import Gather
from fastdiff.native.nodes.maps import MAP_AXES, MAP_INPUTS, MAP_STEPS, Map, Step
from fastdiff.native.nodes.node import KINDS, Node
from fastdiff.native.nodes.norms import GroupNorm, LayerNorm
from fastdiff.native.nodes.product import Product
from fastdiff.native.nodes.reduce import Reduce
from fastdiff.native.nodes.softmax import Softmax

for _module in pkgutil.iter_modules(__path__):  # a new kind is a file, and no line here
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "KINDS",
    "MAP_AXES",
    "MAP_INPUTS",
    "MAP_STEPS",
    "Attention",
    "Conv",
    "Gather",
    "GroupNorm",
    "LayerNorm",
    "Map",
    "Node",
    "Product",
    "Reduce",
    "Softmax",
    "Step",
]
