"""The lines that a refusal and the documentation give to export a model with its own code do what is said of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch")

from forks import repository, vary  # noqa: E402
from test_forks import ModelPruned  # noqa: E402

import onnxslim_yolo  # noqa: E402
from onnxslim_yolo.load.rebuild_module import EXPORT_LINES  # noqa: E402
from tests.docs_snippets import PAGES, blocks  # noqa: E402


def check(graph: onnx.ModelProto, model: torch.nn.Module) -> None:
    """One output; names, stride and task; every BatchNorm, and the tensors' own names."""
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts == {"names": "{0: 'red', 1: 'white', 2: 'platelet'}", "stride": "16", "task": "detect"}
    assert [len(output.type.tensor_type.shape.dim) for output in graph.graph.output] == [3]
    norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    assert sum(node.op_type == "BatchNormalization" for node in graph.graph.node) == norms
    held = {tensor.name for tensor in graph.graph.initializer}
    assert {key for key in model.state_dict() if key.endswith(("running_mean", "weight"))} <= held


def small(text: str) -> str:
    assert "640, 640" in text
    return text.replace("640, 640", "64, 64")


@pytest.mark.filterwarnings("ignore")
def test_the_documentations_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = vary(ModelPruned())
    (block,) = [each for each in blocks(PAGES / "faq.md") if "set_model_props" in each.text]
    with repository(model):
        torch.save({"model": model}, "best.pt")
        exec(small(block.text), {})
    check(onnx.load("model.onnx"), model)
    result = onnxslim_yolo.compile("model.onnx", out="slim", emit=("onnx",))
    assert result.model.metadata["stride"] == "16"


@pytest.mark.filterwarnings("ignore")
def test_the_lines_of_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = vary(ModelPruned())
    lines = "\n".join(line.strip() for line in small(EXPORT_LINES).splitlines())
    exec(lines, {"model": model, "torch": torch, "onnx": onnx})
    check(onnx.load("model.onnx"), model)
