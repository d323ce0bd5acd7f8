"""What a real Ultralytics client finds in an image: `python ultralytics_client.py IMAGE CONF FILE…` prints JSON.

Runs in an environment of its own. For each FILE (a checkpoint, an ONNX file or an NCNN folder, as `YOLO(…)` takes them)
it prints the boxes that `predict` returns, as rows x1, y1, x2, y2, score, class, together with the names and the task
that the client read from the file.
"""

from __future__ import annotations

import json
import sys


def predict(file: str, image: str, conf: float) -> dict[str, object]:
    from ultralytics import YOLO

    # Nothing but the file's name: task, size, stride and names have to come from its metadata.
    model = YOLO(file)
    (result,) = model.predict(image, conf=conf, iou=0.5, verbose=False, save=False, device="cpu")
    rows = result.boxes.data.tolist()
    return {"task": model.task, "names": {str(key): name for key, name in result.names.items()}, "boxes": rows}


def main() -> None:
    image, conf, *files = sys.argv[1:]
    found = {file: predict(file, image, float(conf)) for file in files}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
