"""Shapes of what detectors consist of, on PyTorch's meta device, without what PyTorch imports for them.

Many of PyTorch's own rules for that device are written in Python and import sympy and its compiler: more than a second
of CPU, for a network that has nothing to do with either. Here plain calls are answered: floating-point tensors without
an extent of 0, their axes in memory in order, numbers that fit; the result is contiguous then. Whatever is not plain,
or does not fit, is PyTorch's to answer and to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Rule = Callable[..., "Shape | None"]


Seen = Callable[[str, Any, Any], None]
"""Told of every function that is called: its name, what it reads, what it returns."""


def shapes_only(seen: Seen | None = None) -> AbstractContextManager[Any]:
    """While it is entered, plain calls on meta tensors are answered here, and `seen` is told of all calls."""
    import torch
    from torch.overrides import TorchFunctionMode

    rules, meta = _rules(), torch.device("meta")

    class ShapesOnly(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            found = self._answer(func, args, given)
            if seen is not None:
                seen(getattr(func, "__name__", ""), (args, tuple(given.values())), found)
            return found

        def _answer(self, func: Any, args: Any, given: dict[str, Any]) -> Any:
            if func == torch.arange and len(args) == 1 and _is_count(args[0]) and given == {"device": meta}:
                return torch.empty(args[0], dtype=torch.int64, device=meta)
            shape = _answer(rules.get(func), args, given)
            if shape is None:
                return func(*args, **given)
            return (args[0] if isinstance(args[0], torch.Tensor) else args[0][0]).new_empty(shape)

    return ShapesOnly()


def _answer(rule: Rule | None, args: Any, given: dict[str, Any]) -> Shape | None:
    if rule is None or not args:
        return None
    try:
        return rule(*args, **given)
    except (TypeError, AttributeError):  # arguments that the rule does not know
        return None


@cache
def _rules() -> dict[Any, Rule]:
    import torch
    from torch import Tensor
    from torch.nn import functional as f

    names = ("sigmoid", "tanh", "exp", "log", "sqrt", "sin", "cos", "relu", "abs", "neg", "square", "erf")
    unary = [getattr(place, name) for place in (torch, Tensor) for name in names]
    activations = (f.silu, f.relu, f.relu6, f.hardswish, f.hardsigmoid, f.mish, f.gelu, f.sigmoid, f.tanh)
    signs = ("add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__mul__", "__rmul__", "__truediv__")
    binary = [getattr(Tensor, name) for name in signs] + [torch.add, torch.sub, torch.mul, torch.div]
    return {
        torch.conv2d: _conv2d,
        torch.conv_transpose2d: _conv_transpose2d,
        f.batch_norm: _batch_norm,
        f.max_pool2d: _max_pool2d,
        f.avg_pool2d: _avg_pool2d,
        f.interpolate: _nearest,
        torch.cat: _cat,
        torch.stack: _stack,
        **dict.fromkeys((*unary, *activations), _same),
        f.leaky_relu: _leaky_relu,
        **dict.fromkeys((torch.softmax, Tensor.softmax), _softmax),
        **dict.fromkeys((torch.full_like, torch.pow, Tensor.pow, Tensor.__pow__), _by_number),
        **dict.fromkeys(binary, _pairwise),
        **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _matmul),
    }


def _conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> Shape | None:
    if not _plain(x, weight, rank=4) or not _is_count(groups) or weight.shape[0] % groups:
        return None
    if x.shape[1] != weight.shape[1] * groups or not _is_vector(bias, weight.shape[0], x):
        return None
    size = _window(x, tuple(weight.shape[2:]), stride, padding, dilation)
    return None if size is None else (x.shape[0], weight.shape[0], *size)


def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Shape | None:
    pairs = [_pair(value) for value in (stride, padding, output_padding, dilation)]
    if not _plain(x, weight, rank=4) or not _is_count(groups) or x.shape[1] % groups or None in pairs:
        return None
    width = weight.shape[1] * groups
    if x.shape[1] != weight.shape[0] or not _is_vector(bias, width, x):
        return None
    steps, pads, more, spread = (pair or (0, 0) for pair in pairs)
    if (
        min(*steps, *spread) < 1
        or min(*pads, *more) < 0
        or any(m >= max(s, d) for m, s, d in zip(more, steps, spread, strict=True))
    ):
        return None
    size = [
        (x.shape[2 + k] - 1) * steps[k] - 2 * pads[k] + spread[k] * (weight.shape[2 + k] - 1) + more[k] + 1
        for k in (0, 1)
    ]
    return (x.shape[0], width, *size) if min(size) > 0 else None


def _batch_norm(
    x: Tensor,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> Shape | None:
    """Without statistics, or in training, it is PyTorch's."""
    fits = _plain(x, rank=4) and training is False and mean is not None and var is not None
    fits = fits and type(momentum) in (int, float) and type(eps) in (int, float) and eps > 0
    return tuple(x.shape) if fits and all(_is_vector(v, x.shape[1], x) for v in (mean, var, weight, bias)) else None


def _max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
) -> Shape | None:
    return None if return_indices else _pooled(x, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
) -> Shape | None:
    return _pooled(x, kernel_size, stride, padding, 1, ceil_mode) if divisor_override is None else None


def _pooled(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> Shape | None:
    size, pads = _pair(kernel), _pair(padding)
    if not _plain(x, rank=4) or ceil_mode or size is None or pads is None or min(size) < 1:
        return None
    if any(2 * pad > extent for pad, extent in zip(pads, size, strict=True)):
        return None
    found = _window(x, size, size if stride is None else stride, pads, dilation)
    return None if found is None else (*x.shape[:2], *found)


def _window(x: Tensor, kernel: Shape, stride: Any, padding: Any, dilation: Any) -> Shape | None:
    """Height and width of what a window yields that is moved over a map."""
    pairs = [_pair(value) for value in (stride, padding, dilation)]
    if None in pairs:
        return None
    steps, pads, spread = (pair or (0, 0) for pair in pairs)
    if min(*steps, *spread) < 1 or min(pads) < 0:
        return None
    reach = [x.shape[2 + k] + 2 * pads[k] - spread[k] * (kernel[k] - 1) - 1 for k in (0, 1)]
    return tuple(reach[k] // steps[k] + 1 for k in (0, 1)) if min(reach) >= 0 else None


def _nearest(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: Any = False,
) -> Shape | None:
    whole = int(scale_factor) if isinstance(scale_factor, float) and scale_factor.is_integer() else scale_factor
    factors = _pair(whole)
    if not _plain(x, rank=4) or size is not None or align_corners or recompute_scale_factor or antialias:
        return None
    if mode != "nearest" or factors is None or min(factors) < 1:
        return None
    return (*x.shape[:2], x.shape[2] * factors[0], x.shape[3] * factors[1])


def _cat(parts: Any, dim: Any = 0) -> Shape | None:
    if not _are_plain(parts) or (axis := _axis(dim, parts[0].ndim)) is None:
        return None
    rests = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    first, long = parts[0].shape, sum(part.shape[axis] for part in parts)
    return (*first[:axis], long, *first[axis + 1 :]) if len(rests) == 1 else None


def _stack(parts: Any, dim: Any = 0) -> Shape | None:
    if not _are_plain(parts) or (axis := _axis(dim, parts[0].ndim + 1)) is None:
        return None
    first = parts[0].shape
    return (*first[:axis], len(parts), *first[axis:]) if len({part.shape for part in parts}) == 1 else None


def _same(x: Tensor, inplace: Any = False) -> Shape | None:
    """Of a function of single numbers."""
    return tuple(x.shape) if _plain(x) and not inplace else None


def _leaky_relu(x: Tensor, negative_slope: Any = 0.01, inplace: Any = False) -> Shape | None:
    return _by_number(x, negative_slope) if not inplace else None


def _by_number(x: Tensor, number: Any) -> Shape | None:
    return tuple(x.shape) if _plain(x) and type(number) in (int, float) else None


def _softmax(x: Tensor, dim: Any) -> Shape | None:
    return tuple(x.shape) if _plain(x, ordered=False) and _axis(dim, x.ndim) is not None else None


def _pairwise(x: Tensor, other: Any) -> Shape | None:
    if type(other) in (int, float):
        return _by_number(x, other)
    return _broadcast(x.shape, other.shape) if _plain(x, other) else None


def _matmul(x: Tensor, other: Tensor) -> Shape | None:
    if not _plain(x, other, ordered=False) or min(x.ndim, other.ndim) < 2 or x.shape[-1] != other.shape[-2]:
        return None
    outer = _broadcast(x.shape[:-2], other.shape[:-2])
    return None if outer is None else (*outer, x.shape[-2], other.shape[-1])


def _broadcast(one: Iterable[int], other: Iterable[int]) -> Shape | None:
    a, b = list(one), list(other)
    a, b = [1] * (len(b) - len(a)) + a, [1] * (len(a) - len(b)) + b
    fit = all(p == q or 1 in (p, q) for p, q in zip(a, b, strict=True))
    return tuple(max(p, q) for p, q in zip(a, b, strict=True)) if fit else None


def _plain(*tensors: Any, rank: int | None = None, ordered: bool = True) -> bool:
    """Floating-point tensors of one type on the meta device, of this rank, without an extent of 0.

    Args:
        ordered: their axes lie in memory in order. What is laid out otherwise may make results that are, too.
    """
    import torch

    return all(
        type(each) in (torch.Tensor, torch.nn.Parameter)
        and each.is_meta
        and each.is_floating_point()
        and each.dtype == tensors[0].dtype
        and (not ordered or _in_order(each))
        and 0 not in each.shape
        and (rank is None or each.ndim == rank)
        for each in tensors
    )


def _in_order(tensor: Tensor) -> bool:
    steps = [step for step, extent in zip(tensor.stride(), tensor.shape, strict=True) if step and extent > 1]
    return steps == sorted(steps, reverse=True)


def _are_plain(parts: Any) -> bool:
    return type(parts) in (list, tuple) and bool(parts) and _plain(*parts) and len({p.ndim for p in parts}) == 1


def _is_vector(value: Any, count: int, like: Tensor) -> bool:
    """One number a channel, or nothing."""
    return value is None or (_plain(like, value) and tuple(value.shape) == (count,))


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _axis(dim: Any, rank: int) -> int | None:
    return dim % rank if type(dim) is int and rank and -rank <= dim < rank else None


def _pair(value: Any) -> tuple[int, int] | None:
    """A number for both axes, or two; None of anything else."""
    values = (value, value) if type(value) is int else tuple(value) if type(value) in (list, tuple) else ()
    values = values * 2 if len(values) == 1 else values
    return (values[0], values[1]) if len(values) == 2 and all(type(each) is int for each in values) else None
