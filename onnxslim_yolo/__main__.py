"""`python -m onnxslim_yolo` is the command line."""

from onnxslim_yolo.cli import main

main()
