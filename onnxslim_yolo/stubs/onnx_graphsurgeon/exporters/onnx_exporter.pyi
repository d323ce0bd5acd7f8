import onnx
from onnx_graphsurgeon import Node

class OnnxExporter:
    @staticmethod
    def export_node(node: Node) -> onnx.NodeProto: ...
