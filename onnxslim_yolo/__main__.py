"""`python -m onnxslim_yolo` is the command line."""

from onnxslim_yolo.cli.main import main

main()
