"""Training for sparsity: the public name of `onnxslim_yolo.training.sparsity`."""

from onnxslim_yolo.training.sparsity import GammaSparsity, GammaStatistics, coupled_channels, ultralytics_callbacks

__all__ = ["GammaSparsity", "GammaStatistics", "coupled_channels", "ultralytics_callbacks"]
