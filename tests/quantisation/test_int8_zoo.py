"""A sample of bench/int8_zoo.py, with its pair: a whole network in int8 in both runtimes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.quantisation.choose import quantise
from onnxslim_yolo.quantisation.equalise import equalise
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair
from onnxslim_yolo.verify.quantised import verify_quantised
from tests import zoo

PASSES = "canonicalise,shuffle-to-gather,canonicalise,spp-to-sppf,reparam,fold-bn,fold-affine,silu,pad-pool"


@pytest.mark.parametrize(("name", "layers"), [("yolov5n", 60), ("convnext", 22)])
def test_a_whole_network(name: str, layers: int, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    model = Model.from_onnx(onnx.load_from_string(zoo.onnx_bytes(name)))
    PassManager(parse_pipeline(PASSES)).run(model)
    image = model.graph.inputs[0].name
    plan = quantise(model, [feed[image] for feed in image_like_feeds(model, 3, seed=1)])
    equalise(model, plan.links)
    file = quantised_graph(model, plan).save(tmp_path / "net.onnx")
    found = verify_quantised(model, plan, file, image_like_feeds(model, 2))
    assert found.failed is None and found.kernels == len(plan.layers) == layers and not found.blind
    model.quantised = plan
    pair = emit_ncnn(model)
    assert len(pair.int8) >= len(plan.layers) - 1
    assert all(c.passed for c in verify_int8_pair(model, pair, write_pair(pair, tmp_path), image_like_feeds(model, 1)))
