"""A graph as a trainable PyTorch module, and back: the pruned network for anyone's own training loop.

    module = to_torch(model)             # BatchNorms are nn.BatchNorm2d, parameters keep their old names
    save_module(module, "slim.pt")       # a state_dict and a description; no class of ours is pickled
    module = load_module("slim.pt")      # ready to train, trace, or compile again

Take the graph before convolutions and BatchNorms are fused.
"""

from onnxslim_yolo.emit.torch.module import save_module, to_torch
from onnxslim_yolo.load.graph_module import GraphModule, load_module, module_to_onnx

__all__ = ["GraphModule", "load_module", "module_to_onnx", "save_module", "to_torch"]
