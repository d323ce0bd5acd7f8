"""Every operator of the default domain that can meet a map of floats: of which kind it is, or why it is of none."""

from __future__ import annotations

from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.ops.movement import MOVEMENTS, SHAPES
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.question import one_of
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.spatial import POOLS, RESIZES, SAMPLERS

RANKING = ("TopK", "NonMaxSuppression")
"""What keeps the best, in their order."""
ORDERING = (*RANKING, "ArgMax", "ArgMin", "Unique", "NonZero")
"""Operators whose results move as a whole when two values change places."""
SORTING = ("TopK", "ArgMax", "ArgMin", "CumSum", "CumProd")
"""What sorts, counts or sums up along one axis."""
RECURRENT = ("LSTM", "GRU", "RNN")

MAKES = ("ConstantOfShape", "Range", "EyeLike", "OneHot")
"""Operators that make values from numbers, not from channels."""
INT8_LAYERS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
"""Layers on codes, as onnxruntime makes of those on codes told as floats."""

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

SELECTS = ("Max", "Min", "Clip", "Relu", "ReduceMax", "ReduceMin")
"""Operators that give one of their operands or bounds: of whole numbers as of floats."""

SEQUENCES = (
    *("SequenceMap", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceLength", "SplitToSequence", "ConcatFromSequence"),
    *("Optional", "OptionalGetElement", "OptionalHasElement"),
)

is_literal = one_of("Constant")
takes_best = one_of("TopK")
writes_codes = one_of("QuantizeLinear")
handles_sequences = one_of(*SEQUENCES)
makes_sequence = one_of("SequenceConstruct")
picks_from_sequence = one_of("SequenceAt")

KINDS: dict[str, str] = {
    **dict.fromkeys(FUNCTIONS, "function"),
    **dict.fromkeys(ELEMENTWISE, "element-wise"),
    **dict.fromkeys((*LINEAR, "Attention"), "linear"),
    **dict.fromkeys(POOLS, "pool"),
    **dict.fromkeys(RESIZES, "resize"),
    **dict.fromkeys(SAMPLERS, "sample"),
    **dict.fromkeys(NORMS, "norm"),
    **dict.fromkeys(REDUCTIONS, "reduction"),
    **dict.fromkeys(MOVEMENTS, "movement"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(SORTING, "sorting"),
    **dict.fromkeys(RECURRENT, "recurrent"),
}
"""Operator → kind."""

_QUANTISED = "the float model is compiled, and its result quantised"
_SUBGRAPH = "control flow and sequences are resolved or refused on load"
_SIGNAL = "of signals: no detector has one"
_TRAINING = "of training"

OUTSIDE: dict[str, str] = {
    **dict.fromkeys(
        ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "DequantizeLinear",
         "DynamicQuantizeLinear"), _QUANTISED,
    ),
    **dict.fromkeys(RANDOM, "its result is random: nothing can be compared with it"),
    **dict.fromkeys(
        ("If", "Loop", "Scan", *SEQUENCES), _SUBGRAPH,
    ),
    **dict.fromkeys(
        ("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "DFT", "STFT", "AffineGrid", "Col2Im"),
        _SIGNAL,
    ),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _TRAINING),
    "Einsum": "rewritten as products and sums where they say the same; frozen otherwise",
    "Constant": "becomes an initializer on load",
    **dict.fromkeys(MAKES, "makes values from numbers, not from channels"),
    **dict.fromkeys(("NonZero", "Unique", "NonMaxSuppression"), "how much it gives depends on the data"),
    "MaxRoiPool": "takes regions from the data; frozen",
    "MaxUnpool": "takes positions from the data; frozen",
    "Det": "of matrices; frozen",
    "ImageDecoder": "of files",
    **dict.fromkeys(
        ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"), "of text",
    ),
    "BitCast": "of bits, not of numbers",
    "TensorScatter": "of caches of language models; frozen",
    "RotaryEmbedding": "of language models; frozen",
    "SwiGLU": "gates one half of an axis by the other: of language models; frozen",
    "LinearAttention": "of language models; frozen",
    "CausalConvWithState": "of language models; frozen",
}  # fmt: skip
"""Operator → why no table has it: it is opaque, and what it reads is frozen and reported."""
