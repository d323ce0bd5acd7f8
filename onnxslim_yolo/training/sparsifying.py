"""Sparsity training inside Ultralytics' own trainer, to a share of zeros instead of a rate that has to be guessed.

    yolo = YOLO("best.pt")
    sparsify(yolo, target=0.6)
    yolo.train(data="data.yaml", epochs=50)      # writes weights/sparse.pt beside best.pt and last.pt

Which γ are pushed is `GammaSparsity`'s affair: of the coupled channels, told from a trace of the network, the share
that matters least, growing to `target` over the first half of the epochs in which anything is pushed. How hard follows
from the schedule: at the start of every epoch, or of a part of it where fewer than `PARTS` epochs push, the sizes of
the γ that are still to go are divided by the steps that are left to them,

    step = LARGE-quantile of |γ| to go / (RESERVE · steps left),

so that a gradient that resists is met by a larger step in the next one, whatever the learning rate or the optimiser.
No more than `target` is ever pushed. In the last epochs (`settle`) zeros are held and the rest trains on.

Ultralytics keeps `best.pt` by accuracy alone, which is that of an epoch before anything was zero. `sparse.pt` is the
most accurate of those that have settled.

A training whose γ are no numbers any more is stopped. One that brought next to nothing to zero, or whose accuracy went
with it, is said so in the end: `Sparsifier.complaint`.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.training.slim_checkpoint import TWIN
from onnxslim_yolo.training.sparsity import GammaSparsity, coupled_channels

LARGE, RESERVE = 0.9, 0.8
PARTS = 8
"""In at least so many parts the share that is pushed grows, and the step is set anew."""

LITTLE = 0.25
"""Less than this share of what was asked for, or of the accuracy that there was, is a failure."""

COLUMN = "sparsity/zero"
"""In Ultralytics' results.csv: the share of γ that are exactly zero after the epoch."""

NOTE = "sparsify.json"
"""In the run folder: what was asked for, so that a stopped training goes on alike."""


class Sparsifier:
    """What `sparsify` hangs onto a training: callbacks of Ultralytics' trainer.

    Attributes:
        sparsity: the running `GammaSparsity`; None before training starts.
        shares: per epoch, the share of γ that are zero.
        kept: the fitness of what `sparse.pt` holds; None while there is none.
        densest: the best fitness of an epoch in which next to nothing was zero.
    """

    def __init__(self, target: float, settle: float, bias_mult: float) -> None:
        if not 0 < target < 1:
            raise UsageError(f"the target {target} is not in (0, 1)", hint="0.6 brings 60 % of the γ to zero")
        if not 0 < settle < 1:
            raise UsageError(f"the share of epochs to settle in, {settle}, is not in (0, 1)")
        self.target, self.settle, self.bias_mult = target, settle, bias_mult
        self.sparsity: GammaSparsity | None = None
        self.shares: dict[int, float] = {}
        self.kept: float | None = None
        self.densest: float = 0.0
        self._counted, self._each, self._part = 0, 1, 0

    def start(self, trainer: Any) -> None:
        """Look at the network, and at the optimiser."""
        network = unwrapped(trainer.model)
        coupling = with_twins(coupled_channels(exportable(network), example_for(trainer)))
        self.sparsity = GammaSparsity(
            network, trainer.optimizer, 1.0, bias_mult=self.bias_mult, coupling=coupling, target=self.target
        )
        self.sparsity.step = 0.0
        facts = {"target": self.target, "settle": self.settle, "bias_mult": self.bias_mult}
        Path(trainer.save_dir, NOTE).write_text(json.dumps(facts), encoding="utf-8")

    def pushing(self, trainer: Any) -> int:
        """How many epochs push; at least one does, and where there are two, at least one settles."""
        epochs = int(trainer.epochs)
        return max(1, min(round(epochs * (1 - self.settle)), epochs - 1))

    def begin_epoch(self, trainer: Any) -> None:
        """Set the step for this epoch."""
        sparsity = self._running()
        last = self.pushing(trainer)
        if not math.isfinite(float(sparsity.sizes().sum())):
            raise InputError(
                f"γ are no numbers after {trainer.epoch} epochs: the training has diverged",
                hint="a smaller lr0, or optimizer=AdamW",
            )
        sparsity.set_epoch(trainer.epoch, last)
        done, self._counted = sparsity.steps - self._counted, sparsity.steps
        self._each = done or max(1, len(trainer.train_loader) // max(int(trainer.accumulate), 1))
        self._part = 0
        self._set_step(last - trainer.epoch)

    def end_batch(self, trainer: Any) -> None:
        """Where few epochs push, go on within one: share and step are set anew as if there were `PARTS` epochs."""
        sparsity, last = self._running(), self.pushing(trainer)
        parts = -(-PARTS // last)
        part = min(parts * (sparsity.steps - self._counted) // self._each, parts - 1)
        if part <= self._part or trainer.epoch >= last:
            return
        self._part = part
        at = trainer.epoch + part / parts
        sparsity.advance(at, last)
        self._set_step(last - at)

    def _set_step(self, epochs: float) -> None:
        """The step that brings what is asked for to zero in this many epochs; none where none is left."""
        sparsity = self._running()
        left = round(epochs * self._each)
        sparsity.step = step_for(sparsity.sizes(), self.target, left) if left > 0 else 0.0

    def end_epoch(self, trainer: Any) -> None:
        """Zero the averaged network where this one is, before it is validated and saved; note the share."""
        sparsity = self._running()
        if getattr(trainer, "ema", None) is not None:
            sparsity.apply_zeros(unwrapped(trainer.ema.ema))
        share = sparsity.zero
        self.shares[trainer.epoch] = share
        trainer.lr = {**trainer.lr, COLUMN: share}
        if trainer.epoch + 1 == self.pushing(trainer) and share < self.target * LITTLE:
            say(f"WARNING: after the last epoch that pushes {self._too_few(share)}")

    def keep(self, trainer: Any) -> None:
        """Keep what was saved where it is sparse, and the best of those."""
        fitness = float(trainer.fitness if trainer.fitness is not None else 0.0)
        if self.shares.get(trainer.epoch, 0.0) < self.target * LITTLE:
            self.densest = max(self.densest, fitness)
        if trainer.epoch + 1 < self.pushing(trainer) or (self.kept is not None and fitness < self.kept):
            return
        shutil.copyfile(trainer.last, sparse_file(trainer))
        self.kept = fitness

    @property
    def complaint(self) -> str | None:
        """What is wrong with what was kept, in a sentence; None where nothing is."""
        share = list(self.shares.values())[-1] if self.shares else None
        if share is None:  # it was stopped before an epoch, or trained in other processes
            return None
        if share < self.target * LITTLE:
            return self._too_few(share)
        if self.kept is not None and self.kept < self.densest * LITTLE:
            return (
                f"the accuracy went with the γ: fitness {self.kept:.3f}, and {self.densest:.3f} before anything was "
                "zero; a smaller --target, or more epochs"
            )
        return None

    def _too_few(self, share: float) -> str:
        return f"{share:.1%} of the γ are zero, {self.target:.0%} were asked for; train for more epochs"

    def finish(self, trainer: Any) -> None:
        """Strip and say what was kept; draw the shares."""
        path, share = sparse_file(trainer), list(self.shares.values())[-1:]
        if path.exists():
            from ultralytics.utils.torch_utils import strip_optimizer

            strip_optimizer(path)
            say(f"{path}: {share[0] if share else 0:.1%} of the γ are zero, {self.target:.0%} were asked for")
        if self.complaint is not None:
            say(f"WARNING: {self.complaint}")
        draw(self.shares, self.target, Path(trainer.save_dir, "sparsity.png"))

    def _running(self) -> GammaSparsity:
        if self.sparsity is None:
            raise RuntimeError("training has not started")
        return self.sparsity


def sparsify(yolo: Any, target: float = 0.6, *, settle: float = 0.3, bias_mult: float = 1.0) -> Sparsifier:
    """Make the next `yolo.train(…)` train for sparsity.

    Args:
        yolo: an `ultralytics.YOLO`.
        target: share of the BatchNorms' γ to bring to zero, in (0, 1).
        settle: share of the epochs, the last, in which nothing more is pushed.
        bias_mult: how much faster than γ the β of dead channels go; 0: they stay, and removing is not exact.

    Raises:
        UsageError: a share is out of range.
    """
    found = Sparsifier(target, settle, bias_mult)
    events = {
        "on_train_start": found.start,
        "on_train_epoch_start": found.begin_epoch,
        "on_train_batch_end": found.end_batch,
        "on_train_epoch_end": found.end_epoch,
        "on_model_save": found.keep,
        "on_train_end": found.finish,
    }
    for event, function in events.items():
        yolo.add_callback(event, function)
    return found


def step_for(sizes: Any, target: float, left: int) -> float:
    """By how much a γ has to shrink a step.

    Args:
        sizes: of the γ now, shape (n,). target: the share that has to be zero in the end. left: steps until then.
    """
    ordered = sizes.sort().values
    going = ordered[: max(1, int(target * len(ordered)))]
    going = going[going > 0]
    if not len(going):
        return 0.0
    return float(going[min(int(LARGE * len(going)), len(going) - 1)]) / max(RESERVE * left, 1.0)


def sparse_file(trainer: Any) -> Path:
    """Where the checkpoint that counts is kept."""
    return Path(trainer.last).with_name("sparse.pt")


def unwrapped(network: Any) -> Any:
    """The network inside DistributedDataParallel, a compiled module, or one that is being distilled."""
    for name in ("module", "_orig_mod", "student_model"):
        network = getattr(network, name, network)
    return network


def exportable(network: Any) -> Any:
    """A copy that returns tensors only, as when it is exported."""
    import copy

    copied = copy.deepcopy(network).float().cpu().eval()
    for part in copied.modules():
        if hasattr(part, "export"):
            part.export, part.format = True, "onnx"
        if getattr(part, "one2one_cv2", None) is not None:  # of two sets of towers a trace knows one
            part.end2end = True
            for name in [name for name in part._modules if name.startswith(TWIN)]:
                setattr(part, name.removeprefix(TWIN), None)
    return copied


def with_twins(coupling: dict[str, Any]) -> dict[str, Any]:
    """Towers that are only trained go with the equal ones that run, as a plan will cut them."""
    return {name.replace(TWIN, ""): numbers for name, numbers in coupling.items()} | coupling


def example_for(trainer: Any) -> Any:
    """A small image: only channels matter."""
    import torch

    channels = int(trainer.data.get("channels", 3)) if isinstance(trainer.data, dict) else 3
    stride = int(max(torch.as_tensor(getattr(unwrapped(trainer.model), "stride", 32)).flatten().tolist()))
    return torch.zeros(1, channels, 2 * stride, 2 * stride)


def draw(shares: dict[int, float], target: float, path: Path) -> None:
    """The share of zeros by epoch, as a picture beside Ultralytics' own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.plot(list(shares), [100 * share for share in shares.values()], marker=".")
    axes.axhline(100 * target, linestyle=":")
    axes.set(xlabel="epoch", ylabel="γ exactly zero, %", ylim=(0, 100))
    figure.savefig(path)


def say(text: str) -> None:
    """Through Ultralytics' own log, where its user reads it."""
    from ultralytics.utils import LOGGER

    LOGGER.info(f"sparsify: {text}")


def run_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run folder that counts: the sparse one, else the best, else the last.

    Raises:
        InputError: there is none.
    """
    for name in ("sparse.pt", "best.pt", "last.pt"):
        if (folder / "weights" / name).is_file():
            return folder / "weights" / name
    raise InputError("holds no weights/sparse.pt, best.pt or last.pt", file=folder, hint="give the run's folder")
