"""Sparsity training for anyone's loop: pushes the γ of BatchNormalizations towards zero through optimiser hooks.

    sparsity = GammaSparsity(model, optimizer, rate=1.0)
    for epoch in range(epochs):
        sparsity.set_epoch(epoch, epochs)
        ...                                # an ordinary training loop; nothing else changes

The hooks run inside `optimizer.step()`, so after accumulation, unscaling and clipping. Two ways to push:

* `subgrad`, the published recipe (Liu et al. 2017, "Learning Efficient Convolutional Networks
  through Network Slimming", eq. 1, with the decay that the YOLOv5 pruning scripts added). Before the step

      γ.grad += rate·(1 − 0.9·epoch/epochs)·sign(γ)        β.grad += bias_mult·rate·sign(β)

  with rate 1e-4 to 2e-4 and bias_mult 10 for SGD with momentum. γ hover around zero but are never exactly zero, and
  AdamW normalises the addend away.
* `prox`, the proximal step of the same penalty: after the step

      γ ← sign(γ)·max(|γ| − lr·rate, 0)

  which makes γ exactly zero and survives Adam. `lr` is the learning rate of γ's parameter group at that step. Under
  Adam a γ moves by at most about lr a step, so a rate below 1 lets γ resist in proportion to how sure their gradient
  is; a sum of lr over all steps of about 1 brings γ = 1 down to 0. Under SGD the rate weighs the penalty against the
  loss; momentum multiplies gradients, so it has to be 1 / (1 − momentum) times what `subgrad` takes.
  β of channels whose γ is zero follow at bias_mult times the speed: then the channel is dead, and removing it is exact.

Three choices exist because this compiler prunes shortcuts, too, and because L1 alone shrinks every γ alike:

* `coupling` (see `coupled_channels`): γ of channels that shortcuts tie together are shrunk as one, by the proximal
  step of the group lasso: each by the factor max(0, 1 − lr·rate / rms(γ of the coupled channel)). They reach zero
  together.
* `target`: only this share of the coupled channels, those that matter least at that moment, is pushed; the rest train
  freely. The share grows linearly to `target` over the first half of the epochs. What a channel matters is the running
  mean of its squared effect on the loss (`sparsity_effect`); sizes would not do: in a network that Adam has trained
  all γ are near 1, and their order says little.
* `scope="no-residual"` leaves out BatchNorms in modules whose attribute `add` is true, as the published scripts do.

From epoch `epochs` of `set_epoch(epoch, epochs)` on nothing is pushed any more, and zeros of `prox` are held: the
network settles. An EMA copy follows zeros only slowly: call `apply_zeros(ema)` before it is evaluated or saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.training.effect import RunningEffects
from onnxslim_yolo.training.scope import Scope, coupled_channels, coupling_numbers, norms_in_scope, sizes

__all__ = ["GammaSparsity", "GammaStatistics", "coupled_channels", "ultralytics_callbacks"]

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Mode = Literal["prox", "subgrad"]


@dataclass(frozen=True)
class GammaStatistics:
    """|γ| over all BatchNorms in scope: their number, mean, shares, and a histogram (counts between edges)."""

    epoch: int
    count: int
    mean: float
    zero: float
    below_1e2: float
    below_1e1: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"|γ| mean {self.mean:.3f}, exactly 0: {self.zero:.1%}, <0.01: {self.below_1e2:.1%}, "
            f"<0.1: {self.below_1e1:.1%}"
        )


class GammaSparsity:
    """Pushes γ towards zero whenever the optimiser steps. See the module for the formulas.

    Attributes:
        names: the BatchNorms in scope, as `named_modules` calls them.
        history: statistics at the start of every epoch.
        step: by how much a γ shrinks whenever the optimiser steps, instead of lr·rate; None: by that.
        steps: how often it has stepped.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        rate: float,
        mode: Mode = "prox",
        bias_mult: float = 0.0,
        scope: Scope = "all",
        *,
        coupling: Mapping[str, Array] | None = None,
        target: float | None = None,
    ) -> None:
        """Register the hooks.

        Args:
            model: its BatchNorms' γ and β are parameters of `optimizer`.
            optimizer: any; steps as usual.
            rate: strength of the push, ≥ 0.
            mode: "prox" or "subgrad".
            bias_mult: how much stronger β are pushed; 0: not at all.
            scope: "all", "no-residual", or the names of the BatchNorms.
            coupling: per BatchNorm's name the number of each channel's coupled channel (-1: on its own); prox only.
            target: the share in (0, 1) of channels to push; prox only.

        Raises:
            UsageError: an option is out of range, or there is no γ to push.
        """
        _check(rate, mode, bias_mult, coupling, target)
        self.rate, self.mode, self.bias_mult, self.target = rate, mode, bias_mult, target
        norms = norms_in_scope(model, scope)
        self.names = tuple(norms)
        self._gammas = [norm.weight for norm in norms.values()]
        self._betas = [norm.bias for norm in norms.values()]
        self._optimizer = optimizer
        self._rates()  # complains now rather than at the first step
        self._class = coupling_numbers(norms, coupling)
        self.step: float | None = None
        self.steps = 0
        self._progress, self._settled = 0.0, False
        self._held: list[Tensor] | None = None
        self._effects = RunningEffects(self._gammas, self._betas, self._class)
        self.history: list[GammaStatistics] = []
        hook = optimizer.register_step_pre_hook if mode == "subgrad" else optimizer.register_step_post_hook
        step = self._add_subgradient if mode == "subgrad" else self._shrink
        self._handle = hook(lambda *_: step())

    def set_epoch(self, epoch: int, epochs: int) -> GammaStatistics:
        """Tell where training stands: `epoch` counts from 0; from `epochs` on the network settles."""
        self.advance(epoch, epochs)
        self.history.append(self.statistics(epoch))
        return self.history[-1]

    def advance(self, epoch: float, epochs: int) -> None:
        """As `set_epoch`, within an epoch too, and without statistics."""
        self._progress, self._settled = epoch / max(epochs, 1), epoch >= epochs
        if self._settled and self.mode == "prox" and self._held is None:
            self._held = [gamma != 0 for gamma in self._gammas]
        if not self._settled:
            self._held = None

    def statistics(self, epoch: int = -1, bins: int = 20) -> GammaStatistics:
        """|γ| as it is now."""
        import torch

        values = torch.cat([gamma.detach().abs().flatten() for gamma in self._gammas]).cpu().numpy()
        counts, edges = np.histogram(values, bins=bins, range=(0.0, max(float(values.max()), 1e-12)))
        return GammaStatistics(
            epoch=epoch,
            count=len(values),
            mean=float(values.mean()),
            zero=float((values == 0).mean()),
            below_1e2=float((values < 1e-2).mean()),
            below_1e1=float((values < 1e-1).mean()),
            counts=tuple(counts.tolist()),
            edges=tuple(edges.tolist()),
        )

    @property
    def zero(self) -> float:
        """The share of γ that are exactly zero."""
        return sum(int((gamma == 0).sum()) for gamma in self._gammas) / sum(len(gamma) for gamma in self._gammas)

    def sizes(self) -> Tensor:
        """How large every γ is, as it is pushed: with those that it is coupled with; shape (γ in scope,)."""
        import torch

        return sizes(torch.cat([gamma.detach() for gamma in self._gammas]), self._class)

    def apply_zeros(self, other: nn.Module) -> None:
        """Set γ (and β, where it is zero, too) of a copy, such as an EMA, to zero where they are zero here."""
        import torch

        parts = dict(other.named_modules())
        with torch.no_grad():
            for name, gamma, beta in zip(self.names, self._gammas, self._betas, strict=True):
                dead = gamma == 0
                parts[name].get_parameter("weight")[dead] = 0
                parts[name].get_parameter("bias")[dead & (beta == 0)] = 0

    def remove(self) -> None:
        """Take the hook off the optimiser."""
        self._handle.remove()

    def _add_subgradient(self) -> None:
        if self._settled:
            return
        decayed = self.rate * (1 - 0.9 * self._progress)
        for gamma, beta in zip(self._gammas, self._betas, strict=True):
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign(), alpha=decayed)
            if self.bias_mult and beta.grad is not None:
                beta.grad.add_(beta.detach().sign(), alpha=self.bias_mult * self.rate)

    def _shrink(self) -> None:
        import torch

        self.steps += 1

        with torch.no_grad():
            if self._held is not None:
                for gamma, beta, alive in zip(self._gammas, self._betas, self._held, strict=True):
                    gamma.mul_(alive)
                    if self.bias_mult:
                        beta.mul_(alive)
                return
            flat = torch.cat(list(self._gammas))
            steps = torch.cat(
                [
                    torch.full_like(gamma, lr * self.rate if self.step is None else self.step)
                    for gamma, lr in zip(self._gammas, self._rates(), strict=True)
                ]
            )
            size = sizes(flat, self._class)
            if self.target is not None:
                self._effects.update()
                steps = steps * self._effects.least(self.target * min(1.0, 2 * self._progress), size)
            flat = flat * (1 - steps / size.clamp_min(1e-30)).clamp_min(0)
            start = 0
            for gamma, beta in zip(self._gammas, self._betas, strict=True):
                stop = start + len(gamma)
                gamma.copy_(flat[start:stop])
                if self.bias_mult:
                    limit = steps[start:stop] * self.bias_mult
                    beta.copy_(torch.where(gamma == 0, beta.sign() * (beta.abs() - limit).clamp_min(0), beta))
                start = stop

    def _rates(self) -> list[float]:
        """Each γ's learning rate now. Groups are looked up anew: `load_state_dict` replaces an optimiser's."""
        groups = self._optimizer.param_groups
        lr = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
        if any(id(gamma) not in lr for gamma in self._gammas):
            raise UsageError("a BatchNorm's γ is no parameter of this optimizer", hint="pass the model that it trains")
        return [lr[id(gamma)] for gamma in self._gammas]

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the running mean of effects, shape (γ in scope,), or None."""
        return {"effects": self._effects.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._effects.mean = state["effects"]


def ultralytics_callbacks(yolo: Any, rate: float, *, settle: float = 0.2, **options: Any) -> Callable[[], Any]:
    """Sparsity training inside Ultralytics' trainer: `ultralytics_callbacks(yolo, 1.0); yolo.train(…, amp=False)`.

    Args:
        yolo: an `ultralytics.YOLO`; anything with `add_callback(event, function)`.
        rate: as for `GammaSparsity`.
        settle: share of the epochs, the last, in which nothing is pushed.
        **options: further arguments of `GammaSparsity`.

    Returns:
        A function that gives the `GammaSparsity` once training has started, before that None.
    """
    running: list[GammaSparsity] = []

    def start(trainer: Any) -> None:
        running[:] = [GammaSparsity(trainer.model, trainer.optimizer, rate, **options)]

    def begin_epoch(trainer: Any) -> None:
        running[0].set_epoch(trainer.epoch, max(round(trainer.epochs * (1 - settle)), 1))

    def end_epoch(trainer: Any) -> None:  # before the EMA copy is validated and saved
        if getattr(trainer, "ema", None) is not None:
            running[0].apply_zeros(trainer.ema.ema)

    yolo.add_callback("on_train_start", start)
    yolo.add_callback("on_train_epoch_start", begin_epoch)
    yolo.add_callback("on_train_epoch_end", end_epoch)
    return lambda: running[0] if running else None


def _check(rate: float, mode: str, bias_mult: float, coupling: object, target: float | None) -> None:
    if mode not in ("prox", "subgrad"):
        raise UsageError(f"mode: '{mode}' is neither prox nor subgrad")
    if rate < 0 or bias_mult < 0:
        raise UsageError(f"rate {rate} and bias_mult {bias_mult} must not be negative")
    if target is not None and not 0 < target < 1:
        raise UsageError(f"target: {target} is not in (0, 1)", hint="0.6 pushes the smallest 60 % of the channels")
    if mode == "subgrad" and (coupling is not None or target is not None):
        raise UsageError("coupling and target belong to mode prox", hint="leave them out, or use mode='prox'")
