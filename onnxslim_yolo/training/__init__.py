"""Sparsity training, and plans on other people's checkpoints."""
