"""Feed broken ONNX files to the reader and to whole compilations.

    python bench/fuzz_onnx.py [onnx] [onnx-bytes] [onnx-compile] [--inputs 10000] [--write]

* onnx-bytes: bytes of small files flipped, cut and repeated, through `read_onnx`.
* onnx: files whose structure is damaged field by field (nodes, attributes, edges, shapes, types, names, constants) but
  which still parse, through `load`: reading, checking, canonicalising.
* onnx-compile: the same through a compilation without verification: the passes and the emitters.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
from fuzzing import Options, Tally, fuzz, mutate, run
from onnx import AttributeProto, TensorProto

import onnxslim_yolo as oy
from onnxslim_yolo.load.onnx import read_onnx
from tests.emit.ncnn_cases import CONV, LINEAR, POOL
from tests.emit.ncnn_cases_shape import MOVEMENT, RESIZE
from tests.numeric import build

SPECIAL = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1]
OPS = ("Conv", "Concat", "Split", "Slice", "Reshape", "Resize", "MaxPool", "BatchNormalization", "Gather", "Transpose")


def seeds() -> list[onnx.ModelProto]:
    texts = [*CONV.values(), *POOL.values(), *LINEAR.values(), *MOVEMENT.values(), *RESIZE.values()]
    return [build(text).to_onnx() for text in texts]


def networks() -> list[onnx.ModelProto]:
    """Small detectors' parts, so that there is something to prune: a residual, a split block, pooling, a gate."""
    parts = (
        "h = Add(s, t) r = Relu(h)",
        "u, v = Split<axis=1>(s) w = Concat<axis=1>(v, u) r = Add(w, t)",
        "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(s) r = Concat<axis=1>(m, t)",
        "g = GlobalAveragePool(s) k = Sigmoid(g) r = Mul(t, k)",
        "q = Transpose<perm=[0,2,3,1]>(s) p = Transpose<perm=[0,3,1,2]>(q) r = Concat<axis=1>(p, t)",
    )
    return [
        build(NETWORK.replace("BODY", p).replace("WIDTH", "16" if "r = Concat" in p else "8")).to_onnx() for p in parts
    ]


NETWORK = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,4,8,8] y)'
    " <float[8,3,3,3] stem.weight, float[8] bn.gamma, float[8] bn.beta, float[8] bn.mean, float[8] bn.var,"
    " float[8,8,1,1] neck.weight, float[8] neck.bias, float[4,WIDTH,1,1] head.weight>"
    " { a = Conv<pads=[1,1,1,1]>(x, stem.weight) b = BatchNormalization(a, bn.gamma, bn.beta, bn.mean, bn.var)"
    " c = Sigmoid(b) s = Mul(b, c) t = Conv(s, neck.weight, neck.bias) BODY y = Conv(r, head.weight) }"
)


def damage(rng: random.Random, proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with a few fields changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _ in range(rng.randint(1, 3)):
        rng.choice(DAMAGES)(rng, copy)
    return copy


def _node(rng: random.Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(proto.graph.node) if proto.graph.node else proto.graph.node.add()


def _names(proto: onnx.ModelProto) -> list[str]:
    found = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    return [*found, *(t.name for t in proto.graph.initializer), "", "nowhere", "\x1b[31m<b>"]


def _edge(rng: random.Random, proto: onnx.ModelProto) -> None:
    side = rng.choice([_node(rng, proto).input, _node(rng, proto).output])
    if side:
        side[rng.randrange(len(side))] = rng.choice(_names(proto))


def _arity(rng: random.Random, proto: onnx.ModelProto) -> None:
    side = rng.choice([_node(rng, proto).input, _node(rng, proto).output])
    if side and rng.random() < 0.5:
        side.pop()
    else:
        side.append(rng.choice(_names(proto)))


def _operator(rng: random.Random, proto: onnx.ModelProto) -> None:
    _node(rng, proto).op_type = rng.choice([*OPS, _node(rng, proto).op_type, "Nonsense"])


def _attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if not node.attribute or rng.random() < 0.2:
        name = rng.choice(["axis", "group", "pads", "strides", "perm", "kernel_shape", "allowzero", "ceil_mode"])
        value = rng.choice([rng.choice(SPECIAL), [rng.choice(SPECIAL) for _ in range(rng.randrange(5))], 0.5, "text"])
        node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=None if value != [] else 7))
        return
    attribute = rng.choice(node.attribute)
    if rng.random() < 0.2:
        attribute.type = rng.choice([0, 1, 2, 3, 4, 6, 7, 8])
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(SPECIAL)
    elif attribute.type == AttributeProto.INTS:
        attribute.ints.append(rng.choice(SPECIAL))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e38])
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice([b"", b"\xff", b"linear", b"SAME_UPPER", b"floor"])
    else:
        attribute.i = rng.choice(SPECIAL)


def _constant(rng: random.Random, proto: onnx.ModelProto) -> None:
    if not proto.graph.initializer:
        return
    tensor = rng.choice(proto.graph.initializer)
    kind = rng.randrange(7)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SPECIAL)
    elif kind == 1 and tensor.dims:  # the same data in another shape
        dims = list(tensor.dims)
        rng.shuffle(dims)
        tensor.dims[:] = dims
    elif kind == 2:
        tensor.dims.append(1)
    elif kind == 3:
        tensor.data_type = rng.choice([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99])
    elif kind == 4:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 5:
        values = onnx.numpy_helper.to_array(tensor).copy() if tensor.data_type in (1, 7) and _whole(tensor) else None
        if values is not None and values.size:
            special = SPECIAL if tensor.data_type == TensorProto.INT64 else [float("nan"), float("inf"), 0.0, 1e38]
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(special)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    else:
        tensor.name = rng.choice(_names(proto))


def _whole(tensor: TensorProto) -> bool:
    size = {1: 4, 7: 8}[tensor.data_type]
    count = 1
    for dim in tensor.dims:
        count *= dim
    return len(tensor.raw_data) == count * size and count > 0 and all(dim > 0 for dim in tensor.dims)


def _port(rng: random.Random, proto: onnx.ModelProto) -> None:
    value = rng.choice([*proto.graph.input, *proto.graph.output])
    kind = rng.randrange(4)
    dims = value.type.tensor_type.shape.dim
    if kind == 0 and dims:
        rng.choice(dims).dim_value = rng.choice(SPECIAL)
    elif kind == 1 and dims:
        rng.choice(dims).dim_param = "N"
    elif kind == 2:
        value.type.tensor_type.elem_type = rng.choice([0, 1, 7, 8, 10, 99])
    else:
        value.name = rng.choice(_names(proto))


def _structure(rng: random.Random, proto: onnx.ModelProto) -> None:
    kind = rng.randrange(6)
    nodes = proto.graph.node
    if kind == 0 and nodes:
        del nodes[rng.randrange(len(nodes))]
    elif kind == 1 and nodes:
        nodes.append(rng.choice(nodes))
    elif kind == 2 and proto.graph.initializer:
        del proto.graph.initializer[rng.randrange(len(proto.graph.initializer))]
    elif kind == 3 and proto.graph.initializer:
        proto.graph.initializer.append(rng.choice(proto.graph.initializer))
    elif kind == 4:
        proto.opset_import[0].version = rng.choice([0, 7, 9, 11, 12, 13, 17, 18, 21, 99])
    elif proto.graph.output:
        proto.graph.output.append(proto.graph.output[0])


DAMAGES: list[Callable[[random.Random, onnx.ModelProto], None]] = [
    *(_edge, _arity, _operator, _attribute, _attribute, _constant, _constant, _port, _structure)
]


def main() -> int:
    corpus = seeds()
    whole = networks()
    raw = [proto.SerializeToString() for proto in corpus]
    # In memory where there is such a file system: every input is a file.
    place = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    path = Path(place.name) / "m.onnx"

    def damaged(rng: random.Random) -> bytes:
        return damage(rng, rng.choice(corpus)).SerializeToString()

    def damaged_network(rng: random.Random) -> bytes:
        return damage(rng, rng.choice(whole)).SerializeToString()

    def mutated(rng: random.Random) -> bytes:
        return mutate(rng, rng.choice(raw))

    def loaded(data: object) -> None:
        path.write_bytes(data)  # type: ignore[arg-type]
        oy.load(path)

    def read(data: object) -> None:
        path.write_bytes(data)  # type: ignore[arg-type]
        read_onnx(path)

    def compiled(data: object) -> None:
        path.write_bytes(data)  # type: ignore[arg-type]
        oy.compile(path, out=path.parent / "out", prune=0.3, snap="none", verify=False)

    readers: dict[str, Callable[[Options], Tally]] = {
        "onnx-bytes": lambda options: fuzz("onnx-bytes", mutated, read, options),
        "onnx": lambda options: fuzz("onnx", damaged, loaded, options),
        "onnx-compile": lambda options: fuzz("onnx-compile", damaged_network, compiled, options),
    }
    with place:
        return run(readers, __doc__)


if __name__ == "__main__":
    sys.exit(main())
