"""What the tests of this folder do in an environment with Ultralytics: `python ultralytics_side.py STEP FOLDER …`.

write FOLDER NAME [NC]   NAME.pt as its trainer leaves it, with random but calibrated weights
data FOLDER [NC]         a data set of rectangles, FOLDER/data.yaml; `classes`: one of a folder per class
kill FOLDER FILE         the first block with a shortcut contributes nothing any more
validated FOLDER FILE    set to the towers that a validation leaves it set to
silence FOLDER FILE      the first head of every attention contributes nothing any more
predict FOLDER SLIM ONNX boxes, scores, classes, masks and points of both, as JSON
train FOLDER SLIM STEP   trains two epochs with SlimTrainer; "plain": without; "resume": stopped after one, gone on with
export FOLDER SLIM       ONNX and NCNN, by Ultralytics, and what they predict
handed FOLDER            what a training on several devices hands to its processes, there and back
together FOLDER          two processes (gloo, CPU) that train one network for sparsity: which γ are zero in each
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 96


def picture(seed: int, size: int = SIZE) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 255, (size // 8, size // 8, 3)), np.ones((8, 8, 1)))
    return Image.fromarray(pixels.astype(np.uint8))


def data(folder: Path, task: str = "detect", nc: int = 3) -> Path:
    for split in ("train", "val"):
        for i in range(4):
            if task == "classify":
                place = folder / f"set/{split}/kind{i % nc}"
                place.mkdir(parents=True, exist_ok=True)
                picture(i).save(place / f"{i}.png")
                continue
            (folder / f"images/{split}").mkdir(parents=True, exist_ok=True)
            (folder / f"labels/{split}").mkdir(parents=True, exist_ok=True)
            picture(i).save(folder / f"images/{split}/{i}.png")
            box = "0.5 0.5 0.5 0.5"
            rest = {
                "segment": "0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8",
                "obb": "0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8",
                "pose": f"{box} " + " ".join(["0.5 0.5 2"] * 17),
            }.get(task, box)
            (folder / f"labels/{split}/{i}.txt").write_text(f"{i % nc} {rest}\n")
    if task == "classify":
        return folder / "set"
    extra = "kpt_shape: [17, 3]\n" if task == "pose" else ""
    names = {i: f"kind{i}" for i in range(nc)}
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {names}\n{extra}")
    return folder / "data.yaml"


def write(folder: Path, name: str, nc: int = 3) -> None:
    import torch
    import ultralytics

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "load"))
    from write_ultralytics import calibrate, soften

    torch.manual_seed(0)
    made = ultralytics.YOLO(f"{name}.yaml")
    yaml = {**made.model.yaml, "nc": nc}
    model = type(made.model)(yaml, nc=nc, verbose=False).eval()
    model.names = {i: f"kind{i}" for i in range(nc)}
    calibrate(model, torch.Generator().manual_seed(1), SIZE)
    soften(model.model[-1])
    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        model.model[-1].end2end = True
    model.task = made.task
    torch.save(
        {
            "epoch": -1,
            "model": None,
            "ema": copy.deepcopy(model).half(),
            "train_args": {"imgsz": SIZE, "task": made.task, "data": "data.yaml"},
            "version": ultralytics.__version__,
            "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        },
        folder / f"{name}.pt",
    )


def found(path: str, image: Path, task: str | None = None) -> dict[str, Any]:
    from ultralytics import YOLO

    yolo = YOLO(path, task=task)
    one_to_one = path.endswith(".pt") and getattr(yolo.model.model[-1], "end2end", False)
    more = {"nms": False} if one_to_one else {}  # the towers that the file is set to, and that are exported
    result = yolo.predict(image, imgsz=SIZE, conf=0.05, iou=0.7, max_det=100, verbose=False, **more)[0]
    if result.probs is not None:
        return {"probs": result.probs.data.tolist()}
    boxes = result.obb if result.obb is not None else result.boxes
    answer = {"boxes": (boxes.xywhr if result.obb is not None else boxes.xyxy).tolist()}
    answer |= {"scores": boxes.conf.tolist(), "classes": boxes.cls.tolist()}
    if result.masks is not None:
        answer["masks"] = result.masks.data.float().mean((1, 2)).tolist()
    if result.keypoints is not None:
        answer["points"] = result.keypoints.data.tolist()
    return answer


def facts(path: str) -> dict[str, Any]:
    from ultralytics import YOLO

    yolo = YOLO(path)
    return {
        "parameters": sum(p.numel() for p in yolo.model.parameters()),
        "task": yolo.task,
        "names": yolo.names,
        "heads": [[m.num_heads, m.head_dim] for m in yolo.model.modules() if hasattr(m, "num_heads")],
        "from": getattr(yolo.model, "pruned_from", None),
        "widths": [m.out_channels for m in yolo.model.modules() if hasattr(m, "out_channels")],
        "identities": [k for k, m in yolo.model.named_modules() if type(m).__name__ == "Identity" and k[-1].isdigit()],
    }


def kill(folder: Path, name: str) -> str:
    """The first block with a shortcut contributes nothing any more; returns its path."""
    import torch

    held = torch.load(folder / name, weights_only=False)
    path, block = next((k, m) for k, m in held["ema"].named_modules() if getattr(m, "add", False) is True)
    norm = [part for part in block.modules() if isinstance(part, torch.nn.BatchNorm2d)][-1]
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
    torch.save(held, folder / name)
    return path


def validated(folder: Path, name: str) -> None:
    """As Ultralytics' trainer leaves two sets of towers: its last validation has set the averaged."""
    import torch

    held = torch.load(folder / name, weights_only=False)
    held["ema"].model[-1].end2end = False
    torch.save(held, folder / name)


def silence(folder: Path, name: str) -> None:
    import torch

    held = torch.load(folder / name, weights_only=False)
    ends: list[Any] = []
    for part in held["ema"].modules():
        if not hasattr(part, "num_heads"):
            continue
        rows = part.qkv.bn.num_features // part.num_heads  # of a head, its values last
        ends += [(part.qkv.bn, rows - part.head_dim, rows), (part.pe.bn, 0, part.head_dim)]
    for part in held["ema"].modules():  # where the code gives back what it is given, as much of that, too
        within = [each for each in part.modules() if hasattr(each, "num_heads")]
        if not isinstance(getattr(part, "c", None), int) or not within or hasattr(within[0], "all_head_dim"):
            continue
        size = within[0].head_dim
        ends += [(part.cv1.bn, 0, size), (part.cv1.bn, part.c, part.c + size)]
        ends += [(each.proj.bn, 0, size) for each in within]
        shortcuts = [each for each in part.modules() if getattr(each, "add", False) is True and hasattr(each, "cv2")]
        ends += [(each.cv2.bn, 0, size) for each in shortcuts]
        ends += [(each.ffn[1].bn, 0, size) for each in part.modules() if hasattr(each, "ffn")]
    with torch.no_grad():
        for norm, start, stop in ends:
            norm.weight[start:stop] = 0
            norm.bias[start:stop] = 0
    torch.save(held, folder / name)


def predict(folder: Path, *paths: str) -> list[Any]:
    from ultralytics import YOLO

    image = folder / "picture.png"
    picture(7).save(image)
    task = YOLO(paths[0]).task
    return [found(path, image, task) for path in paths]


def train(folder: Path, path: str, how: str) -> dict[str, Any]:
    from ultralytics import YOLO

    from onnxslim_yolo.training import SlimTrainer

    yolo = YOLO(path)
    settings = {"imgsz": SIZE, "batch": 2, "workers": 0, "plots": False, "val": True, "project": str(folder / "runs")}
    settings |= {"data": str(data(folder, yolo.task)), "epochs": 2, "amp": False, "name": how, "verbose": False}
    if how == "plain":
        yolo.train(**settings)
    elif how == "resume":

        def stop(trainer: Any) -> None:
            if trainer.epoch == 0:
                raise KeyboardInterrupt

        yolo.add_callback("on_model_save", stop)
        with contextlib.suppress(KeyboardInterrupt):
            yolo.train(trainer=SlimTrainer, **settings)
        again = YOLO(str(folder / f"runs/{how}/weights/last.pt"))
        again.train(trainer=SlimTrainer, resume=True)
    else:
        yolo.train(trainer=SlimTrainer, **settings)
    return facts(str(folder / f"runs/{how}/weights/last.pt"))


def export(folder: Path, path: str) -> list[Any]:
    from ultralytics import YOLO

    written = [YOLO(path).export(format=form, imgsz=SIZE) for form in ("onnx", "ncnn")]
    return predict(folder, path, *map(str, written))


def handed(folder: Path) -> list[str]:
    """Ultralytics pickles the trainer's class and the callbacks for the processes that it starts."""
    import pickle

    from onnxslim_yolo.training.slim_trainer import TRAINERS, trainer_class
    from onnxslim_yolo.training.sparsifying import Sparsifier

    found = Sparsifier(0.5, 0.3, 1.0)
    state = {"trainers": [trainer_class(task) for task in TRAINERS], "callbacks": [found.start, found.begin_epoch]}
    again = pickle.loads(pickle.dumps(state))
    assert again["callbacks"][0].__self__ is again["callbacks"][1].__self__  # they go on sharing what they know
    return [trainer.__name__ for trainer in again["trainers"]]


def together(folder: Path) -> list[Any]:
    from torch import multiprocessing

    multiprocessing.spawn(_one_of_two, args=(str(folder),), nprocs=2)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _one_of_two(rank: int, folder: str) -> None:
    import torch
    from torch import distributed, nn

    from onnxslim_yolo.training.sparsity import GammaSparsity

    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 1, 1))
    whole = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(whole.parameters(), 1e-2)
    sparsity = GammaSparsity(net, optimizer, 1.0, target=0.5)
    sparsity.step = 0.1
    random = torch.Generator().manual_seed(rank)  # each process has images of its own
    for epoch in range(4):
        sparsity.set_epoch(epoch, 4)
        for _ in range(10):
            x = torch.rand(2, 3, 8, 8, generator=random)
            optimizer.zero_grad()
            (whole(x).mean((1, 2, 3)) - x.mean((1, 2, 3))).square().mean().backward()
            optimizer.step()
    Path(folder, f"rank{rank}.json").write_text(json.dumps(net[1].weight.tolist()))
    distributed.destroy_process_group()


if __name__ == "__main__":
    step, place, *rest = sys.argv[1:]
    numbers = [int(each) if each.isdecimal() else each for each in rest]
    outcome = {
        "write": write,
        "data": data,
        "predict": predict,
        "train": train,
        "export": export,
        "facts": None,
        "kill": kill,
        "silence": silence,
        "validated": validated,
        "handed": handed,
        "together": together,
    }[step]
    answer = facts(rest[0]) if outcome is None else outcome(Path(place).resolve(), *numbers)
    print("ANSWER", json.dumps(answer, default=str))
