"""What a network is, and its export to ONNX."""

from fastdiff.exporting.network import Conditioning, Network
from fastdiff.exporting.onnx import export_onnx

__all__ = ["Conditioning", "Network", "export_onnx"]
