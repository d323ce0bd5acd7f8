"""Random networks of real forks' blocks through the channel analysis: no crash, no hang, and plan ≡ mask.

    python bench/random_graphs.py [--graphs N] [--first SEED] [--minutes M] [--only BLOCK] [--write]

Each graph strings 2 to 4 of the blocks of `fork_blocks.py` behind a stem, at 16 or 24 channels, calibrates its
BatchNorms, kills some of their channels, and is exported by one of torch's exporters (TorchScript, opset 12 to 20, or
dynamo, opset 18 to 21, with optimize=False, BatchNorm kept), with a fixed or an open batch. Then:

1. canonicalising changes nothing (at batch 3 as well, where the batch is open);
2. removing what is dead changes nothing;
3. two random choices, sliced, equal their masks: our own, put into the prepared graph; and the exported file with what
   the plan does not keep set to zero by numpy (`source_masks.py`), which shares no code with slicing or masking. Not
   compared are plans where that does not silence a channel (a one-channel map was added to all of them since) that a
   reader takes as it is (a mean over channels, attention): there our masks are zero and the source's are not.

The control of 3: with 1 % on one layer's weights the difference has to show. A run over 60 s counts as a hang. With
--write the figures are kept in `bench/results/random_graphs.txt`; a later run goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import torch
from fork_blocks import BLOCKS
from fork_parts import cba
from source_masks import zeroed
from torch import nn

from onnxslim_yolo.ir.graph import is_constant
from onnxslim_yolo.ir.model import Model, Source
from onnxslim_yolo.load.onnx import model_of
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import Plan, open_plan, plan_as_json
from onnxslim_yolo.runtime.onnx_run import with_outputs
from onnxslim_yolo.verify.compare import control
from tests.numeric import Feeds, differences, run_onnx
from tests.passes.cutting import remove_random

RESULTS = Path(__file__).parent / "results" / "random_graphs.txt"
ROUNDING = 2e-4
LIMIT = 60


@dataclass
class Outcome:
    """What became of one graph."""

    seed: int
    blocks: list[str]
    exporter: str
    opset: int
    open_batch: bool
    state: str = "right"
    detail: str = ""
    prunable: float = 0.0
    error: float = 0.0
    source_error: float = 0.0
    source_masks: int = 0
    left_out: int = 0
    not_silenced: int = 0
    noticed: float = 0.0
    frozen: dict[str, int] = field(default_factory=dict)


class Net(nn.Module):
    """A stem, blocks, a head."""

    def __init__(self, blocks: list[str], width: int) -> None:
        super().__init__()
        self.stem = cba(3, width, 3)
        self.blocks = nn.ModuleList(BLOCKS[name](width) for name in blocks)
        self.head = nn.Conv2d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The head's map."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network(rng: random.Random, only: str) -> tuple[Net, list[str]]:
    """A calibrated network with some dead channels."""
    names = [only] if only else []
    names += rng.sample(sorted(BLOCKS), rng.randint(2, 4) - len(names))
    net = Net(names, rng.choice([16, 24]))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 8, 8))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and rng.random() < 0.7:
                dead = torch.rand(module.num_features) < 0.3
                module.weight[dead] = 0.0
                module.bias[dead] = 0.0
    return net.eval(), names


def exported(net: Net, exporter: str, opset: int, open_batch: bool) -> onnx.ModelProto:
    """The network as torch's exporter writes it, BatchNorm kept."""
    x, file = torch.randn(2 if open_batch else 1, 3, 8, 8), io.BytesIO()
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},) if open_batch else None
            program = torch.onnx.export(
                net, (x,), dynamo=True, optimize=False, dynamic_shapes=shapes, opset_version=opset
            )
            assert program is not None
            return program.model_proto
        torch.onnx.export(
            net,
            (x,),
            file,
            dynamo=False,
            opset_version=opset,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}} if open_batch else None,
        )
    return onnx.load_from_string(file.getvalue())


def feeds_of(proto: onnx.ModelProto, batch: int) -> Feeds:
    """Standard normal images."""
    rng = np.random.default_rng(batch)
    return {proto.graph.input[0].name: rng.standard_normal((batch, 3, 8, 8)).astype(np.float32)}


def worst(a: onnx.ModelProto | Model, b: Model, batches: list[int]) -> float:
    """The worst difference of two graphs, in spreads."""
    proto = a.to_onnx() if isinstance(a, Model) else a
    return max(
        max(differences(run_onnx(a, feeds_of(proto, n)), run_onnx(b, feeds_of(proto, n))).values()) for n in batches
    )


def _kind_of(reason: str) -> str:
    """A reason without its node's name."""
    operator, *rest = reason.split(" '")
    return operator if len(rest) == 0 else f"{operator}: {reason.split(chr(39))[-1].strip(' :')[:60]}".rstrip(": ")


def check(proto: onnx.ModelProto, outcome: Outcome) -> None:
    """Fill in what becomes of a graph."""
    model = model_of(proto, Source())
    batches = [1, 3] if outcome.open_batch else [1]
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise()]).run(model)
    outcome.error = worst(proto, model, batches)
    channels = open_plan(model).channels
    outcome.prunable = float(channels.prunable.mean()) if channels.count else 0.0
    outcome.frozen = dict(Counter(_kind_of(reason) for reason in channels.frozen if reason))
    model.plan = None
    after = model.copy()
    PassManager([PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()]).run(after)
    outcome.error = max(outcome.error, worst(model, after, batches))
    for seed in (0, 1):
        attempt = model.copy()
        attempt.plan = None
        plan = remove_random(attempt, 0.5, outcome.seed + seed)
        if plan.removed:
            reference, summed = masked(attempt, plan), taken_as_they_are(attempt, plan)
            PassManager([SliceChannels()]).run(attempt)
            outcome.error = max(outcome.error, worst(reference, attempt, batches))
            against_source(proto, attempt, batches, outcome, summed)
    if max(outcome.error, outcome.source_error) > ROUNDING:
        outcome.state = "wrong"
        outcome.detail = f"differs by {outcome.error:.1e} from our mask, {outcome.source_error:.1e} from the source's"
    elif 0 < outcome.noticed < 10 * ROUNDING:
        outcome.state, outcome.detail = "blind", f"1 % shows as {outcome.noticed:.1e}"


def taken_as_they_are(model: Model, plan: Plan) -> dict[str, np.ndarray]:
    """Per tensor that is summed over without weights, where its removed channels lie."""
    found = {}
    for node, index in plan.channels.contractions:
        classes = plan.channels.labels_of(node.inputs[index])
        if classes is None or any(
            is_constant(tensor) for tensor in node.inputs[:2] if tensor is not node.inputs[index]
        ):
            continue
        gone = (classes >= 0) & ~plan.keep[np.maximum(classes, 0)]
        if gone.any():
            found[node.inputs[index].name] = gone
    return found


def silenced(reference: onnx.ModelProto, summed: dict[str, np.ndarray], feeds: Feeds) -> bool:
    """Whether zeros in the file make removed channels zero wherever they are summed over without weights."""
    made = {name for node in reference.graph.node for name in node.output}
    names = [name for name in summed if name in made]
    outputs = run_onnx(onnx.load_from_string(with_outputs(reference, names)), feeds) if names else {}
    return not any((np.where(summed[name], outputs[name], 0) != 0).any() for name in names)


def against_source(
    proto: onnx.ModelProto, cut: Model, batches: list[int], outcome: Outcome, summed: dict[str, np.ndarray]
) -> None:
    """Compare with the exported file in which what the plan leaves out is zero."""
    keep = plan_as_json(cut)["keep"]
    if any(note.startswith("plan.json leaves out") for note in cut.notes):
        outcome.left_out += 1
        return
    reference = zeroed(proto, keep)
    if not silenced(reference, summed, feeds_of(proto, batches[0])):
        outcome.not_silenced += 1
        return
    outcome.source_masks += 1
    outcome.source_error = max(outcome.source_error, worst(reference, cut, batches))
    feeds = feeds_of(proto, batches[0])
    outcome.noticed = control(cut, [feeds], [run_onnx(reference, feeds)])[0]


class HangError(Exception):
    """A graph took too long."""


def _alarm(signum: int, frame: object) -> None:
    raise HangError


def one(seed: int, only: str = "", trace: bool = False) -> Outcome:
    """One random graph."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    net, names = network(rng, only)
    exporter = "dynamo" if rng.random() < 0.2 else "torchscript"
    opset = rng.randint(12, 20) if exporter == "torchscript" else rng.randint(18, 21)
    outcome = Outcome(seed, names, exporter, opset, rng.random() < 0.5)
    try:
        proto = exported(net, exporter, outcome.opset, outcome.open_batch)
        run_onnx(proto, feeds_of(proto, 1))
    except Exception as error:
        outcome.state, outcome.detail = "not exported", f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        return outcome
    outcome.opset = max(o.version for o in proto.opset_import if not o.domain)
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(LIMIT)
    try:
        check(proto, outcome)
    except HangError:
        outcome.state = "hang"
    except Exception as error:
        outcome.state, outcome.detail = "crash", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if trace:
            traceback.print_exc()
    finally:
        signal.alarm(0)
    return outcome


def table(found: list[Outcome]) -> str:
    """The figures."""
    states = Counter(outcome.state for outcome in found)
    tried = [outcome for outcome in found if outcome.state != "not exported"]
    lines = [f"{len(tried)} graphs: " + ", ".join(f"{n} {state}" for state, n in states.most_common())]
    lines.append(
        f"block kinds {len({b for o in tried for b in o.blocks})}; "
        + ", ".join(f"{n} {key}" for key, n in Counter(o.exporter for o in tried).most_common())
        + f"; open batch {sum(o.open_batch for o in tried)}; opsets "
        + ", ".join(f"{key}: {n}" for key, n in sorted(Counter(o.opset for o in tried).items()))
    )
    right = [outcome.prunable for outcome in tried if outcome.state == "right"]
    if right:
        error = max(o.error for o in tried if o.state == "right")
        lines.append(f"prunable channels: mean {np.mean(right):.3f}, worst {min(right):.3f}")
        lines.append(f"worst error of the right ones: {error:.1e} spreads")
        source, least = max(o.source_error for o in tried), min(o.noticed for o in tried if o.noticed)
        lines.append(
            f"against the exported file with zeros where the plan keeps nothing: {sum(o.source_masks for o in tried)} "
            f"plans, worst {source:.1e} spreads; not comparable, as the plan leaves out a constant: "
            f"{sum(o.left_out for o in tried)}, as zeros do not silence a channel that is summed over as it is: "
            f"{sum(o.not_silenced for o in tried)}; 1 % on a layer's weights shows as {least:.1e} or more"
        )
    for outcome in found:
        if outcome.state not in ("right", "not exported"):
            lines.append(
                f"{outcome.state}: seed {outcome.seed} {outcome.exporter} opset {outcome.opset} "
                f"{'open' if outcome.open_batch else 'fixed'} {outcome.blocks}: {outcome.detail}"
            )
    frozen: Counter[str] = Counter()
    for outcome in tried:
        frozen.update(outcome.frozen)
    lines += ["frozen channels by reason:"] + [f"{n:>8}  {reason}" for reason, n in frozen.most_common(25)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = RESULTS.with_suffix(".json")
    found = [Outcome(**row) for row in json.loads(kept.read_text())] if args.write and kept.exists() else []
    end = time.monotonic() + 60 * args.minutes
    first = max([outcome.seed + 1 for outcome in found], default=args.first)
    for seed in range(first, first + args.graphs):
        if time.monotonic() > end:
            break
        outcome = one(seed, args.only, args.trace)
        found.append(outcome)
        if outcome.state != "right":
            print(
                outcome.state, outcome.seed, outcome.exporter, outcome.opset, outcome.blocks, outcome.detail, flush=True
            )
    text = table(found)
    print(text)
    if args.write:
        RESULTS.write_text(text)
        kept.write_text(json.dumps([asdict(outcome) for outcome in found]))


if __name__ == "__main__":
    main()
