"""Names in a pickle that another reader would import and may call: is the file one that asks for code?

Here they are text. `torch.load` without `weights_only`, which most projects' own loaders use, imports every module that
is named and calls what the pickle says; a name that no detector's checkpoint needs is therefore worth a warning,
although nothing of it ran here.
"""

from __future__ import annotations

from collections.abc import Iterable

_TORCH = (
    *("torch.nn.modules.", "torch.nn.parameter.", "torch._utils._rebuild_", "torch.storage.", "torch.optim."),
    *("torch.nn.utils.", "torch.fx.", "torch.distributions.", "torch.ao.nn.", "torch.nn.quantized."),
)
_TORCH_NAMES = frozenset(
    ("torch.Size", "torch.device", "torch.Tensor", "torch.dtype", "torch._tensor._rebuild_from_type_v2")
)
_NUMPY = frozenset(
    f"{module}.{name}"
    for module in (
        "numpy",
        "numpy.core.multiarray",
        "numpy._core.multiarray",
        "numpy.core.numeric",
        "numpy._core.numeric",
    )
    for name in ("dtype", "ndarray", "scalar", "_reconstruct", "_frombuffer", "float64", "float32", "int64", "bool_")
)
_FAMILIES = (
    *("ultralytics", "models", "utils", "yolov5", "yolov6", "yolov7", "yolov9", "yolov10", "yolox", "yolo", "nn"),
    *("torchvision", "timm", "mmdet", "mmyolo", "mmengine", "mmcv", "omegaconf", "thop", "super_gradients", "damo"),
    *("common", "experimental", "onnxslim_yolo", "__main__"),
)
"""Top-level modules of detectors' own code. Of them only classes are ordinary, which are spelt with a capital."""
_LOWER = ("models", "common", "experimental", "nn")
"""Where classes are spelt in lower case as well (YOLOv5-Lite)."""
_REBUILT = ("_rebuild_", "_reconstruct")
_STANDARD = ("collections.", "datetime.", "pathlib.", "argparse.Namespace", "types.SimpleNamespace", "_codecs.encode")
_STRANGE = ("hub", "cpp_extension", "subprocess", "_C", "package", "testing", "f2py", "distutils", "downloads")
"""Parts of a dotted name that no saved class lives in."""


def asks_for_code(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that no checkpoint of a detector needs, sorted."""
    return tuple(sorted(name for name in set(names) if not _is_ordinary(name)))


def warning(names: Iterable[str]) -> tuple[str, ...]:
    """One note where a pickle asks for code, none where it does not."""
    found = asks_for_code(names)
    if not found:
        return ()
    shown = ", ".join(f"'{name[:60]}'" for name in found[:4]) + (
        f" and {len(found) - 4} more" if len(found) > 4 else ""
    )
    return (
        f"loaded elsewhere, this checkpoint asks for code that no detector needs: {shown}. Nothing of it ran here; "
        "find out where the file comes from before any other program opens it",
    )


def _is_ordinary(name: str) -> bool:
    root, *_, last = name.split(".")
    if any(part in _STRANGE for part in name.split(".")[:-1]):
        return False
    if root == "torch":
        storage = name.count(".") == 1 and (last.endswith("Storage") or last in _DTYPES)
        return storage or name in _TORCH_NAMES or name.startswith(_TORCH)
    if root == "numpy":
        return name in _NUMPY or (name.startswith("numpy.dtypes.") and last.endswith("DType"))
    if root == "builtins":
        return last not in ("getattr",)
    if name.startswith(_STANDARD):
        return True
    return root in _FAMILIES and (last[:1].isupper() or last.startswith(_REBUILT) or root in _LOWER)


_DTYPES = frozenset(
    (
        *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool", "half"),
        *(
            "float",
            "double",
            "int",
            "long",
            "short",
            "strided",
            "preserve_format",
            "contiguous_format",
            "channels_last",
        ),
    )
)
