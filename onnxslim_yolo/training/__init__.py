"""Sparsity training, fine-tuning of what was pruned, and plans on other people's checkpoints."""

from onnxslim_yolo.training.slim_trainer import SlimTrainer

__all__ = ["SlimTrainer"]
