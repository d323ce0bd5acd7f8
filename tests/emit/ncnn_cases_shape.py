"""Small ONNX graphs of data movement, by name (see `ncnn_cases`)."""

from __future__ import annotations

from tests.emit.ncnn_cases import MAP, graph, one

PERMUTATIONS = {
    f"transpose-{''.join(map(str, perm))}": one(
        f"y = Transpose<perm={list(perm)}>(x)", "float[" + ",".join(str((1, 6, 9, 10)[axis]) for axis in perm) + "]"
    )
    for perm in (
        (0, 1, 3, 2),
        (0, 2, 1, 3),
        (0, 2, 3, 1),
        (0, 3, 1, 2),
        (0, 3, 2, 1),
        (1, 0, 2, 3),
        (2, 0, 3, 1),
        (1, 2, 3, 0),
    )
}

_FIVE = (2, 3, 4, 5)
PERMUTATIONS_4 = {
    f"transpose5-{''.join(map(str, perm))}": one(
        f"y = Transpose<perm={[0, *(axis + 1 for axis in perm)]}>(x)",
        "float[1," + ",".join(str(_FIVE[axis]) for axis in perm) + "]",
        shape="float[1,2,3,4,5]",
    )
    for perm in (
        (0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1), (1, 0, 2, 3), (1, 0, 3, 2), (1, 2, 0, 3),
        (1, 2, 3, 0), (1, 3, 0, 2), (1, 3, 2, 0), (2, 0, 1, 3), (2, 0, 3, 1), (2, 1, 0, 3), (2, 1, 3, 0), (2, 3, 0, 1),
        (2, 3, 1, 0), (3, 0, 1, 2), (3, 0, 2, 1), (3, 1, 0, 2), (3, 1, 2, 0), (3, 2, 0, 1), (3, 2, 1, 0),
    )
}  # fmt: skip

MOVEMENT = {
    **PERMUTATIONS,
    **PERMUTATIONS_4,
    "reshape": one("y = Reshape(x, s)", "float[1,9,60]", "int64[3] s = {1,9,60}"),
    "reshape-then-use": one("a = Reshape(x, s) y = Relu(a)", "float[1,9,60]", "int64[3] s = {1,9,60}"),
    "reshape-loses-batch": one(
        "a = Reshape(x, s) b = Relu(a) y = Reshape(b, t)", MAP, "int64[2] s = {6,90}, int64[4] t = {1,6,9,10}"
    ),
    "reshape-batch-to-heads": one(
        "a = Reshape(x, s) b = Softmax<axis=1>(a) y = Reshape(b, t)",
        MAP,
        "int64[3] s = {3,2,90}, int64[4] t = {1,6,9,10}",
    ),
    "squeeze-unsqueeze": one(
        "a = GlobalAveragePool(x) b = Squeeze(a, i) c = Relu(b) y = Unsqueeze(c, i)",
        "float[1,6,1,1]",
        "int64[2] i = {2,3}",
    ),
    "detect-head-v5": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,1,3,4,2]>(a) g = Sigmoid(b) xy, wh, r = Split<axis=4>(g, n)"
        " p = Mul(xy, t) q = Add(p, grid) u = Mul(wh, wh) v = Mul(u, anchors) k = Concat<axis=4>(q, v, r)"
        " y = Reshape(k, e)",
        "float[1,60,7]",
        "int64[5] s = {1,3,7,4,5}, int64[3] n = {2,2,3}, float t = {2}, float[1,3,4,5,2] grid,"
        " float[1,3,1,1,2] anchors,"
        "int64[3] e = {1,60,7}",
        "float[1,21,4,5]",
    ),
    "detect-head-v5-broadcast-grid": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,1,3,4,2]>(a) xy, wh, r = Split<axis=4>(b, n)"
        " q = Add(xy, grid) v = Mul(wh, anchors) k = Concat<axis=4>(q, v, r) y = Reshape(k, e)",
        "float[1,60,7]",
        "int64[5] s = {1,3,7,4,5}, int64[3] n = {2,2,3}, float[1,1,4,5,2] grid, float[1,3,1,1,2] anchors,"
        " int64[3] e = {1,60,7}",
        "float[1,21,4,5]",
    ),
    "concat": graph(f"{MAP} x, float[1,5,9,10] z", "float[1,11,9,10] y", "y = Concat<axis=1>(x, z)"),
    "concat-height": graph(f"{MAP} x, float[1,6,2,10] z", "float[1,6,11,10] y", "y = Concat<axis=2>(x, z)"),
    "concat-width": graph(f"{MAP} x, float[1,6,9,3] z", "float[1,6,9,13] y", "y = Concat<axis=-1>(x, z)"),
    "concat-itself": one("y = Concat<axis=1>(x, x)", "float[1,12,9,10]"),
    "concat-constant": one("y = Concat<axis=1>(x, w)", "float[1,8,9,10]", "float[1,2,9,10] w"),
    "concat-rank-3": graph("float[1,6,9] x, float[1,6,4] z", "float[1,6,13] y", "y = Concat<axis=2>(x, z)"),
    "concat-levels": graph(
        "float[1,6,4,5] x, float[1,6,2,3] z",
        "float[1,6,26] y",
        "a = Reshape(x, s) b = Reshape(z, s) y = Concat<axis=2>(a, b)",
        "int64[3] s = {1,6,-1}",
    ),
    "stack": graph(
        f"{MAP} x, {MAP} z",
        "float[1,6,2,9,10] y",
        "a = Unsqueeze(x, i) b = Unsqueeze(z, i) y = Concat<axis=2>(a, b)",
        "int64[1] i = {2}",
    ),
    "split": graph(
        f"{MAP} x", "float[1,2,9,10] y, float[1,4,9,10] z", "y, z = Split<axis=1>(x, s)", "int64[2] s = {2,4}"
    ),
    "split-one-used": one("z, y = Split<axis=1>(x, s)", "float[1,4,9,10]", "int64[2] s = {2,4}"),
    "split-width": graph(
        f"{MAP} x", "float[1,6,9,3] y, float[1,6,9,7] z", "y, z = Split<axis=3>(x, s)", "int64[2] s = {3,7}"
    ),
    "split-old": graph(
        f"{MAP} x", "float[1,2,9,10] y, float[1,4,9,10] z", "y, z = Split<axis=1,split=[2,4]>(x)", opset=11
    ),
    "split-equal": graph(
        f"{MAP} x", "float[1,3,9,10] y, float[1,3,9,10] z", "y, z = Split<axis=1,num_outputs=2>(x)", opset=18
    ),
    "split-and-whole": one(
        "a, b = Split<axis=1>(x, s) y = Concat<axis=1>(x, a, b, a)", "float[1,15,9,10]", "int64[2] s = {3,3}"
    ),
    "slice-channels": one(
        "y = Slice(x, s, e, a)", "float[1,3,9,10]", "int64[1] s = {2}, int64[1] e = {5}, int64[1] a = {1}"
    ),
    "slice-negative": one(
        "y = Slice(x, s, e, a)", "float[1,6,7,9]", "int64[2] s = {1,-10}, int64[2] e = {-1,-1}, int64[2] a = {2,3}"
    ),
    "slice-halves": one(
        "p = Slice(x, s, m, a) q = Slice(x, m, e, a) y = Concat<axis=1>(q, p)",
        MAP,
        "int64[1] s = {0}, int64[1] m = {2}, int64[1] e = {9223372036854775807}, int64[1] a = {1}",
    ),
    "slice-step": one(
        "y = Slice(x, s, e, a, t)",
        "float[1,6,4,10]",
        "int64[1] s = {1}, int64[1] e = {9}, int64[1] a = {2}, int64[1] t = {2}",
    ),
    "slice-step-3-width": one(
        "y = Slice(x, s, e, a, t)",
        "float[1,6,9,4]",
        "int64[1] s = {0}, int64[1] e = {10}, int64[1] a = {3}, int64[1] t = {3}",
    ),
    "slice-step-channel": one(
        "y = Slice(x, s, e, a, t)",
        "float[1,3,9,10]",
        "int64[1] s = {1}, int64[1] e = {6}, int64[1] a = {1}, int64[1] t = {2}",
    ),
    "slice-step-both": one(
        "y = Slice(x, s, e, a, t)",
        "float[1,6,4,5]",
        "int64[2] s = {1,0}, int64[2] e = {9,10}, int64[2] a = {2,3}, int64[2] t = {2,2}",
    ),
    "slice-step-channel-and-width": one(
        "y = Slice(x, s, e, a, t)",
        "float[1,3,9,5]",
        "int64[2] s = {1,0}, int64[2] e = {6,10}, int64[2] a = {1,3}, int64[2] t = {2,2}",
    ),
    "focus": one(
        "a = Slice(x, z, e, h, t) b = Slice(x, o, e, h, t) c = Slice(a, z, e, v, t) d = Slice(b, z, e, v, t)"
        " f = Slice(a, o, e, v, t) g = Slice(b, o, e, v, t) k = Concat<axis=1>(c, d, f, g)"
        " y = Conv<pads=[1,1,1,1]>(k, w, u)",
        "float[1,8,4,6]",
        "int64[1] z = {0}, int64[1] o = {1}, int64[1] e = {9223372036854775807}, int64[1] h = {2}, int64[1] v = {3},"
        "int64[1] t = {2}, float[8,12,3,3] w, float[8] u",
        "float[1,3,8,12]",
    ),
    "focus-without-conv": one(
        "c = Slice(x, zz, ee, hv, t) d = Slice(x, oz, ee, hv, t) f = Slice(x, zo, ee, hv, t) g = Slice(x,"
        " oo, ee, hv, t)"
        " y = Concat<axis=1>(c, d, f, g)",
        "float[1,12,4,6]",
        "int64[2] zz = {0,0}, int64[2] oz = {1,0}, int64[2] zo = {0,1}, int64[2] oo = {1,1}, int64[2] ee = {99,99},"
        "int64[2] hv = {2,3}, int64[2] t = {2,2}",
        "float[1,3,8,12]",
    ),
    "shuffle": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(b, t)",
        MAP,
        "int64[5] s = {1,2,3,9,10}, int64[4] t = {1,6,9,10}",
    ),
    "shuffle-3": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, t) y = Relu(c)",
        MAP,
        "int64[5] s = {1,3,2,9,10}, int64[4] t = {1,6,9,10}",
    ),
    "shuffle-16": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(b, t)",
        "float[1,32,5,7]",
        "int64[5] s = {1,2,16,5,7}, int64[4] t = {1,32,5,7}",
        "float[1,32,5,7]",
    ),
    "shuffle-split": graph(
        f"{MAP} x",
        "float[1,3,9,10] y, float[1,3,9,10] z",
        "a = Reshape(x, s) b = Transpose<perm=[1,0,2]>(a) c = Reshape(b, t) y = Gather<axis=0>(c, i)"
        " z = Gather<axis=0>(c, j)",
        "int64[3] s = {3,2,90}, int64[5] t = {2,-1,3,9,10}, int64 i = {0}, int64 j = {1}",
    ),
    "gather-shuffle": one("y = Gather<axis=1>(x, i)", MAP, "int64[6] i = {0,3,1,4,2,5}"),
    "gather-two-halves-of-a-shuffle": graph(
        f"{MAP} x",
        "float[1,3,9,10] y, float[1,3,9,10] z",
        "y = Gather<axis=1>(x, i) z = Gather<axis=1>(x, j)",
        "int64[3] j = {1,3,5}, int64[3] i = {0,2,4}",
    ),
    "gather-range": one("y = Gather<axis=1>(x, i)", "float[1,3,9,10]", "int64[3] i = {2,3,4}"),
    "gather-scalar": one("y = Gather<axis=2>(x, i)", "float[1,6,10]", "int64 i = {-2}"),
    "gather-stride": one("y = Gather<axis=3>(x, i)", "float[1,6,9,4]", "int64[4] i = {1,3,5,7}"),
    "gather-scattered": one("y = Gather<axis=1>(x, i)", "float[1,5,9,10]", "int64[5] i = {5,0,0,3,4}"),
    "gather-many": one(
        "y = Gather<axis=1>(x, i)",
        "float[1,14,9,10]",
        "int64[14] i = {5,0,4,2,0,5,3,1,5,0,2,4,2,0}",
    ),
    "gather-matrix": one("y = Gather<axis=1>(x, i)", "float[1,2,2,9,10]", "int64[2,2] i = {0,1,2,3}"),
    "pad": one("y = Pad(x, p, v)", "float[1,6,12,12]", "int64[8] p = {0,0,1,2,0,0,2,0}, float v = {0.5}"),
    "pad-channels": one("y = Pad(x, p)", "float[1,9,9,10]", "int64[8] p = {0,1,0,0,0,2,0,0}"),
    "pad-reflect": one('y = Pad<mode="reflect">(x, p)', "float[1,6,12,12]", "int64[8] p = {0,0,1,2,0,0,2,0}"),
    "pad-edge": one('y = Pad<mode="edge">(x, p)', "float[1,6,12,12]", "int64[8] p = {0,0,1,2,0,0,2,0}"),
    "pad-negative": one("y = Pad(x, p)", "float[1,6,7,8]", "int64[8] p = {0,0,-1,-2,0,0,-1,0}"),
    "pad-old": one("y = Pad<pads=[0,0,1,1,0,0,1,1],value=-1.5>(x)", "float[1,6,11,12]", opset=10),
    "pad-rank-3": one("y = Pad(x, p)", "float[1,8,12]", "int64[6] p = {0,1,1,0,1,0}", "float[1,6,11]"),
    "tile": one("y = Tile(x, r)", "float[1,12,9,30]", "int64[4] r = {1,2,1,3}"),
    "expand": graph("float[1,6,1,10] x", "float[1,6,9,10] y", "y = Expand(x, s)", "int64[4] s = {1,6,9,10}"),
    "expand-rank": graph("float[1,1,10] x", "float[1,6,9,10] y", "y = Expand(x, s)", "int64[4] s = {1,6,9,10}"),
    "depth-to-space": one("y = DepthToSpace<blocksize=2>(x)", "float[1,2,8,10]", shape="float[1,8,4,5]"),
    "depth-to-space-crd": one('y = DepthToSpace<blocksize=2,mode="CRD">(x)', "float[1,2,8,10]", shape="float[1,8,4,5]"),
    "space-to-depth": one("y = SpaceToDepth<blocksize=2>(x)", "float[1,12,4,5]", shape="float[1,3,8,10]"),
    "pixel-shuffle-written": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,1,4,2,5,3]>(a) y = Reshape(b, t)",
        "float[1,2,8,10]",
        "int64[6] s = {1,2,2,2,4,5}, int64[4] t = {1,2,8,10}",
        "float[1,8,4,5]",
    ),
    "pixel-unshuffle-written": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,1,3,5,2,4]>(a) y = Reshape(b, t)",
        "float[1,12,4,5]",
        "int64[6] s = {1,3,4,2,5,2}, int64[4] t = {1,12,4,5}",
        "float[1,3,8,10]",
    ),
    "passthrough-written": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,3,5,1,2,4]>(a) y = Reshape(b, t)",
        "float[1,12,4,5]",
        "int64[6] s = {1,3,4,2,5,2}, int64[4] t = {1,12,4,5}",
        "float[1,3,8,10]",
    ),
    "windows-5-groups": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,2,4,3,5,1]>(a) y = Reshape(b, t)",
        "float[4,10,3]",
        "int64[6] s = {1,3,2,2,2,5}, int64[3] t = {4,10,3}",
        "float[1,3,4,10]",
    ),
    "six-groups-reversed": one(
        "a = Reshape(x, s) b = Transpose<perm=[5,4,3,2,1,0]>(a) y = Reshape(b, t)",
        "float[1,480]",
        "int64[6] s = {2,3,4,5,2,2}, int64[2] t = {1,480}",
        "float[1,480]",
    ),
    "constant-chain": one(
        "h = Shape(x) i = Gather<axis=0>(h, k) m = Unsqueeze(i, n) s = Concat<axis=0>(q, m) y = Reshape(x, s)",
        "float[1,60,9]",
        "int64 k = {2}, int64[1] n = {0}, int64[2] q = {1,60}",
    ),
    "output-is-reshaped-input": one("y = Flatten(x)", "float[1,540]"),
    "two-outputs-one-value": graph(f"{MAP} x", f"{MAP} y, {MAP} z", "y = Relu(x) z = Identity(y)"),
    "output-read-again": graph(f"{MAP} x", f"{MAP} y, {MAP} z", "y = Relu(x) z = Neg(y)"),
    "input-is-output": graph(f"{MAP} x", f"{MAP} y, {MAP} z", "y = Identity(x) z = Neg(x)"),
    "names": graph(f"{MAP} x", f"{MAP} y", "in0 = Relu(x) out0 = Neg(in0) y = Exp(out0)"),
}

RESIZE = {
    "nearest-2": one(
        'y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, "", s)',
        "float[1,6,18,20]",
        "float[4] s = {1,1,2,2}",
    ),
    "nearest-half-pixel-2": one('y = Resize<mode="nearest">(x, "", s)', "float[1,6,18,20]", "float[4] s = {1,1,2,2}"),
    "nearest-sizes": one(
        'y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, "", "", s)',
        "float[1,6,27,20]",
        "int64[4] s = {1,6,27,20}",
    ),
    "linear": one('y = Resize<mode="linear">(x, "", s)', "float[1,6,18,20]", "float[4] s = {1,1,2,2}"),
    "linear-down": one('y = Resize<mode="linear">(x, "", "", s)', "float[1,6,5,7]", "int64[4] s = {1,6,5,7}"),
    "linear-corners": one(
        'y = Resize<mode="linear",coordinate_transformation_mode="align_corners">(x, "", "", s)',
        "float[1,6,17,13]",
        "int64[4] s = {1,6,17,13}",
    ),
    "linear-pytorch": one(
        'y = Resize<mode="linear",coordinate_transformation_mode="pytorch_half_pixel">(x, "", s)',
        "float[1,6,18,20]",
        "float[4] s = {1,1,2,2}",
    ),
    "linear-from-one": one(
        'y = Resize<mode="linear">(x, "", "", s)', "float[1,6,5,7]", "int64[4] s = {1,6,5,7}", "float[1,6,1,1]"
    ),
    "upsample": one("y = Upsample(x, s)", "float[1,6,18,20]", "float[4] s = {1,1,2,2}", opset=9),
    "resize-10": one("y = Resize(x, s)", "float[1,6,18,20]", "float[4] s = {1,1,2,2}", opset=10),
    "resize-itself": one('y = Resize(x, "", s)', MAP, "float[4] s = {1,1,1,1}"),
}
