"""Class tokens and object queries as torch's two exporters write them: the analysis ends, and what it cuts is right."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import differences, run_onnx
from tests.passes.cutting import remove_random, run

torch = pytest.importorskip("torch")
nn = torch.nn
ROUNDING = 1e-4


class Vit(nn.Module):
    """A class token in front of patches, a position table, one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: object) -> object:
        """Logits of the class token."""
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(t.shape[0], -1, -1), t], 1) + self.positions
        return self.head(self.layer(t)[:, 0])


class Detr(nn.Module):
    """Learned queries that attend to a convolution's map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1))
        self.queries = nn.Parameter(torch.randn(1, 5, 16))
        self.layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: object) -> object:
        """Boxes of the queries."""
        memory = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.layer(self.queries.expand(memory.shape[0], -1, -1), memory)).sigmoid()


class Registers(nn.Module):
    """Tokens behind the patches, BatchNorm in place of LayerNorm, a MLP over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 16, 4, 4, bias=False), nn.BatchNorm2d(16))
        self.tokens = nn.Parameter(torch.randn(1, 2, 16))
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: object) -> object:
        """A logit a token."""
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([t, self.tokens.expand(t.shape[0], -1, -1)], 1)
        return self.head(t + self.mlp(t))


def exported(net: object, dynamo: bool, open_batch: bool) -> onnx.ModelProto:
    x, file, quiet = torch.randn(2 if open_batch else 1, 3, 16, 16), io.BytesIO(), io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},) if open_batch else None
            program = torch.onnx.export(net, (x,), dynamo=True, optimize=False, dynamic_shapes=shapes)
            proto: onnx.ModelProto = program.model_proto
            return proto
        axes = {"x": {0: "batch"}} if open_batch else None
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=17, **names)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize(
    ("kind", "dynamo", "open_batch"),
    [  # each kind as each exporter writes it; an open batch of each exporter's, and of each kind's
        *((Vit, False, True), (Vit, True, False), (Detr, False, False), (Detr, True, True)),
        *((Registers, False, True), (Registers, True, False)),
    ],
)
def test_tokens_of_both_exporters(kind: type, dynamo: bool, open_batch: bool) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    source = exported(kind().eval(), dynamo, open_batch)
    model = run(Model.from_onnx(source), Canonicalise(), ShuffleToGather(), Canonicalise())
    assert open_plan(model).channels.prunable.any()
    for seed in range(3):
        model.plan = None
        plan = remove_random(model, seed=seed)
        assert plan.removed
        reference, after = masked(model, plan), run(model, SliceChannels())
        for batch in (1, 3) if open_batch else (1,):
            feeds = {
                source.graph.input[0].name: np.random.default_rng(seed).standard_normal((batch, 3, 16, 16), np.float32)
            }
            found, whole = run_onnx(after, feeds), run_onnx(source, feeds)
            assert max(differences(whole, run_onnx(model, feeds)).values()) <= ROUNDING
            assert max(differences(run_onnx(reference, feeds), found).values()) <= ROUNDING
            assert max(differences(whole, found).values()) > 10 * ROUNDING  # the comparison sees the cut
