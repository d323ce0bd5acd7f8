"""Sparsity training, fine-tuning of what was pruned, and plans on other people's checkpoints."""

from onnxslim_yolo.training.narrow_to import narrow_to
from onnxslim_yolo.training.slim_trainer import SlimTrainer
from onnxslim_yolo.training.sparsifying import sparsify

__all__ = ["SlimTrainer", "narrow_to", "sparsify"]
