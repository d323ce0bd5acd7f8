"""How onnxruntime and ncnn are run: in child processes that nothing of their surroundings reaches."""
