"""What is answered about shapes is what PyTorch answers, layout in memory included; what it refuses is not answered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnxslim_yolo.load.meta_shapes import _answer, _rules, shapes_only  # noqa: E402
from tests.command import environment  # noqa: E402

f = torch.nn.functional


def meta(rng: np.random.Generator, rank: int, base: tuple[int, ...] | None = None) -> Any:
    """A tensor of small extents, laid out in memory in one of several ways; like `base` in most extents."""
    sizes = [int(rng.choice([1, 2, 4, 8])) for _ in range(rank)]
    if base is not None:
        sizes = [b if rng.random() < 0.8 else s for b, s in zip(base[-rank:], sizes[-len(base) :], strict=False)]
    order = rng.permutation(len(sizes)) if rng.random() < 0.3 else np.arange(len(sizes))
    made = torch.empty([sizes[k] for k in order], device="meta").permute(*np.argsort(order).tolist())
    if rng.random() < 0.2:
        made = made[..., : max(made.shape[-1] // 2, 1)]
    return made if rng.random() < 0.9 else made.double()


def conv(rng: np.random.Generator, transposed: bool = False) -> tuple[Any, ...]:
    x, groups = meta(rng, 4), int(rng.choice([1, 1, 2, 4]))
    out, kernel = int(rng.choice([2, 4, 8])), [int(k) for k in rng.choice([1, 2, 3], 2)]
    inputs = x.shape[1] if transposed else max(x.shape[1] // groups, 1)
    weight = torch.empty(inputs if transposed else out, out if transposed else inputs, *kernel, device="meta")
    width = out * groups if transposed else out
    bias = None if rng.random() < 0.5 else torch.empty(width if rng.random() < 0.9 else width + 1, device="meta")
    steps, pads = ([int(v) for v in rng.choice(values, 2)] for values in ([1, 1, 2], [0, 0, 1, 2]))
    more = [int(v) for v in rng.choice([0, 0, 1], 2)]
    return (x, weight, bias, steps, pads, *((more, groups) if transposed else (1, groups)))


def pool(rng: np.random.Generator) -> tuple[Any, ...]:
    return meta(rng, 4), int(rng.choice([1, 2, 3])), int(rng.choice([1, 2])), int(rng.choice([0, 0, 1, 2]))


def two(rng: np.random.Generator) -> tuple[Any, ...]:
    x = meta(rng, int(rng.choice([2, 3, 4, 5])))
    return x, (meta(rng, x.ndim, tuple(x.shape)) if rng.random() < 0.8 else float(rng.integers(9)))


def joined(rng: np.random.Generator) -> tuple[Any, ...]:
    x = meta(rng, int(rng.choice([2, 3, 4])))
    return [x, *(meta(rng, x.ndim, tuple(x.shape)) for _ in range(int(rng.integers(3))))], int(rng.integers(-3, 4))


def norm(rng: np.random.Generator) -> tuple[Any, ...]:
    x = meta(rng, int(rng.choice([3, 4, 4, 4])))
    vectors = [torch.empty(x.shape[1] + int(rng.random() < 0.05), device="meta") for _ in range(4)]
    return (x, *vectors, bool(rng.random() < 0.1), 0.1, float(rng.choice([1e-5, 1e-5, 1e-3, -1.0])))


def product(rng: np.random.Generator) -> tuple[Any, ...]:
    x = meta(rng, int(rng.choice([2, 3, 4])))
    other = meta(rng, x.ndim, (*x.shape[:-2], x.shape[-1], 4))
    return x, other


def layout(tensor: Any) -> tuple[Any, ...]:
    """All that later calls can tell; the step along an axis of one element is nobody's."""
    steps = [step for step, extent in zip(tensor.stride(), tensor.shape, strict=True) if extent > 1]
    return tuple(tensor.shape), steps, tensor.dtype, tensor.device


CALLS: dict[str, tuple[Callable[..., Any], Callable[[np.random.Generator], tuple[Any, ...]]]] = {
    "conv2d": (torch.conv2d, conv),
    "conv_transpose2d": (torch.conv_transpose2d, lambda rng: conv(rng, transposed=True)),
    "batch_norm": (f.batch_norm, norm),
    "max_pool2d": (f.max_pool2d, pool),
    "avg_pool2d": (f.avg_pool2d, pool),
    "interpolate": (f.interpolate, lambda rng: (meta(rng, 4), None, rng.choice([1, 2, 3]).item(), "nearest")),
    "cat": (torch.cat, joined),
    "stack": (torch.stack, joined),
    "silu": (f.silu, lambda rng: (meta(rng, 4),)),
    "sigmoid": (torch.Tensor.sigmoid, lambda rng: (meta(rng, 5),)),
    "leaky_relu": (f.leaky_relu, lambda rng: (meta(rng, 4), 0.1)),
    "softmax": (torch.softmax, lambda rng: (meta(rng, 4), int(rng.integers(-5, 5)))),
    "pow": (torch.pow, lambda rng: (meta(rng, 3), 2)),
    "full_like": (torch.full_like, lambda rng: (meta(rng, 3), 8.0)),
    "add": (torch.add, two),
    "mul": (torch.Tensor.mul, two),
    "matmul": (torch.matmul, product),
}


@pytest.mark.parametrize(("call", "arguments"), CALLS.values(), ids=CALLS.keys())
def test_answers_are_pytorchs(
    call: Callable[..., Any], arguments: Callable[[np.random.Generator], tuple[Any, ...]]
) -> None:
    rng, answered = np.random.default_rng(0), 0
    for _ in range(40):
        given = arguments(rng)
        shape = _answer(_rules().get(call), given, {})
        try:
            expected = call(*given)
        except Exception:
            assert shape is None, given
            continue
        if shape is not None:
            answered += 1
            with shapes_only():
                got = call(*given)
            assert layout(got) == layout(expected), given
            assert tuple(got.shape) == shape
    assert answered > 5


def test_of_anything_else_nothing_is_answered() -> None:
    x = torch.empty(1, 4, 8, 8)
    assert _answer(_rules()[f.silu], (x,), {}) is None  # it is no meta tensor
    assert _answer(_rules()[f.silu], (x.to("meta"), True), {}) is None
    assert _answer(_rules()[f.silu], (x.to("meta"),), {"unheard": 1}) is None
    assert _answer(_rules()[f.interpolate], (x.to("meta"), None, 2.5), {}) is None
    assert _answer(_rules()[f.silu], (x.to("meta"),), {}) == (1, 4, 8, 8)  # the control


def test_a_detectors_sizes_need_no_compiler() -> None:
    code = (
        "import sys\nfrom onnxslim_yolo.load.dry_run import check_sizes\n"
        "from onnxslim_yolo.models.zoo.architectures import build\n"
        "check_sizes(build('yolov8n-seg').eval(), (1, 3, 640, 640))\n"
        "print('sympy' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env=environment(), check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]
