"""Latency by width: what layers of a graph cost in a runtime, from measured tables or from packing rules."""

from onnxslim_yolo.latency.analytic import AnalyticModel
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.packing import Runtime, host_isa
from onnxslim_yolo.latency.shipped import shipped_tables, table_for
from onnxslim_yolo.latency.table import Grid, LatencyTable

__all__ = [
    "AnalyticModel",
    "Family",
    "Grid",
    "LatencyTable",
    "LayerKey",
    "Runtime",
    "host_isa",
    "layers_of",
    "shipped_tables",
    "table_for",
]
