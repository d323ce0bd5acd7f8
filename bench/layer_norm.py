"""What it costs to leave channels out of a LayerNormalization exactly, and how far off it is to just do it.

    python bench/layer_norm.py [--write]

A LayerNormalization over C channels sees all of them: with a channel masked, its zero counts in the mean and in the
variance. Leaving half of them out is therefore

* another function, where the normalisation runs over what is left (what Torch-Pruning does): by how much, in spreads;
* exact, where zeros take the place of what left: Pad, LayerNormalization over C, Slice;
* exact, where sums over what is left are divided by C: written out with ReduceSum.

Each is timed in onnxruntime on one thread, alone and within a ConvNeXt block's second half (LayerNormalization, Linear
C → 4C, GELU, Linear 4C → C), whose inner channels are halved in any case (as `compile` does today: "held").
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

RESULTS = Path(__file__).parent / "results" / "layer_norm.txt"
WIDTHS = ((96, 56), (192, 28), (384, 14), (768, 7))
EPSILON = 1e-6


def norm(kind: str, n: int, source: int) -> tuple[str, str]:
    """Declarations and nodes of a normalisation of n channels of `x`, `source` in the source, into `z`."""
    plain = "float[{0}] s, float[{0}] t".format(source if kind == "padded" else n)
    if kind == "plain":
        return plain, f"z = LayerNormalization<axis=-1, epsilon={EPSILON}>(x, s, t)"
    if kind == "padded":
        ints = f"int64[6] p = {{0,0,0,0,0,{source - n}}}, int64[1] a = {{0}}, int64[1] b = {{{n}}}, int64[1] c = {{2}}"
        body = f"u = Pad(x, p) v = LayerNormalization<axis=-1, epsilon={EPSILON}>(u, s, t) z = Slice(v, a, b, c)"
        return f"{plain}, {ints}", body
    numbers = (
        f"int64[1] c = {{2}}, float k = {{{float(source)}}}, float e = {{{EPSILON}}}, float g = {{{float(source - n)}}}"
    )
    body = (
        "m0 = ReduceSum(x, c) m = Div(m0, k) d = Sub(x, m) q = Mul(d, d) v0 = ReduceSum(q, c) mm = Mul(m, m) "
        "gm = Mul(mm, g) v1 = Add(v0, gm) v = Div(v1, k) ve = Add(v, e) r = Sqrt(ve) h = Div(d, r) "
        "hs = Mul(h, s) z = Add(hs, t)"
    )
    return f"{plain}, {numbers}", body


def model(kind: str, n: int, source: int, block: bool, rows: int) -> onnx.ModelProto:
    """One normalisation, or with the linear layers behind it."""
    declared, body = norm(kind, n, source)
    inner = 2 * source  # of 4C, half is left
    if block:
        declared += f", float[{n},{inner}] w1, float[{inner}] b1, float[{inner},{n}] w2, float[{n}] b2"
        body += " h1 = MatMul(z, w1) h2 = Add(h1, b1) h3 = Gelu(h2) h4 = MatMul(h3, w2) y = Add(h4, b2)"
    else:
        body += " y = Identity(z)"
    text = f'<ir_version: 9, opset_import: ["": 20]> g (float[1,{rows},{n}] x) => (float[1,{rows},{n}] y) <{declared}>'
    proto = onnx.parser.parse_model(f"{text} {{ {body} }}")
    rng = np.random.default_rng(0)
    known = {tensor.name for tensor in proto.graph.initializer}
    for info in [info for info in proto.graph.value_info if info.name not in known]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = np.ones(shape) if info.name == "s" else rng.normal(size=shape) / max(shape[0], 1) ** 0.5
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), info.name))
        proto.graph.value_info.remove(info)
    return proto


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """One thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fastest(sessions: list[ort.InferenceSession], feeds: list[np.ndarray], seconds: float = 2.0) -> list[float]:
    """Milliseconds of each, the fastest of many runs taken in turns."""
    best = [np.inf] * len(sessions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, (runner, feed) in enumerate(zip(sessions, feeds, strict=True)):
            start = time.perf_counter()
            runner.run(None, {"x": feed})
            best[index] = min(best[index], time.perf_counter() - start)
    return [1000 * each for each in best]


def off(n: int, source: int, rows: int) -> tuple[float, float]:
    """Worst difference from the masked source, in spreads: of the two exact ones, and of the normalisation of n."""
    x = np.random.default_rng(1).normal(0.2, 1, (1, rows, n)).astype(np.float32)
    wide = np.concatenate([x, np.zeros((1, rows, source - n), np.float32)], 2)
    mean, deviation = wide.mean(2, keepdims=True), np.sqrt(wide.var(2, keepdims=True) + EPSILON)
    found = {}
    for kind in ("padded", "written out", "plain"):
        proto = model(kind, n, source, False, rows)
        shift = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "t")[:n]
        expected = (x - mean) / deviation + shift
        found[kind] = float(np.abs(session(proto).run(None, {"x": x})[0] - expected).max() / expected.std())
    return max(found["padded"], found["written out"]), found["plain"]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    lines = [
        "ms in onnxruntime, one thread: source's C channels; C/2 padded with zeros; C/2 written out; C/2 as it is",
        f"{'C':>4} {'tokens':>6} {'':>12} {'C':>8} {'padded':>8} {'written':>8} {'as it is':>8}",
    ]
    for source, side in WIDTHS:
        n, rows = source // 2, side * side
        for block in (False, True):
            kinds = [("plain", source), ("padded", n), ("written out", n), ("plain", n)]
            sessions = [session(model(kind, width, source, block, rows)) for kind, width in kinds]
            feeds = [np.random.default_rng(0).normal(size=(1, rows, w)).astype(np.float32) for _, w in kinds]
            times = fastest(sessions, feeds)
            what = "norm + MLP" if block else "norm alone"
            lines.append(f"{source:>4} {rows:>6} {what:>12} " + " ".join(f"{t:>8.3f}" for t in times))
        exact, other = off(n, source, rows)
        lines.append(f"{'':>11} off by: exact ones {exact:.0e} spreads, as it is {other:.1f} spreads")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
