"""Choose widths: least latency at a bound on importance lost, or least importance lost at a bound on latency.

Both are knapsacks over the units, with a sum over layers that couples them. Relaxed by a multiplier (Everett 1963,
"Generalized Lagrange Multiplier Method"): for a price λ of importance, minimise

    latency(widths) + λ · lost(widths)

by going through the units in turn and giving each its best width while the others stand still, until nothing improves
(coordinate descent: each step lowers the sum, so it ends). Every solution for some λ is the best there is for its own
latency, up to the descent's local optima; bisection over λ finds the one nearest to the bound, and single moves with
the best ratio of gain to cost then use up what is left of it. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxslim_yolo.pruning.placed import Choice
from onnxslim_yolo.pruning.problem import Allocation, WidthProblem

SWEEPS = 6
STEPS = 9
ROUNDS = 3
SLACK = 1e-9


def fastest(
    problem: WidthProblem, candidates: Sequence[Sequence[int]], budget: float, starts: Sequence[Choice]
) -> Allocation:
    """The least latency among choices that lose at most `budget`.

    Args:
        candidates: per unit, the widths to choose among.
        budget: importance.
        starts: where to descend from; the first loses at most `budget`, and the result is never slower than it.
    """
    best = reckon(problem, starts[0])

    def better(found: Allocation) -> bool:
        return found.lost <= budget * (1 + SLACK) + SLACK and found.latency < best.latency - SLACK

    for start in starts:
        high = _first_price(problem, start)
        low, choice = high * 1e-4, list(start)
        for _ in range(STEPS):
            price = (low * high) ** 0.5
            choice = descend(problem, candidates, price, choice)
            found = reckon(problem, choice)
            if found.lost <= budget * (1 + SLACK) + SLACK:
                high = price
            else:
                low = price
            if better(found):
                best = found
    polished = _spend(problem, candidates, best, lambda a: a.lost <= budget * (1 + SLACK) + SLACK, "latency")
    return polished if better(polished) else best


def most_important(
    problem: WidthProblem, candidates: Sequence[Sequence[int]], limit: float, start: Choice
) -> Allocation:
    """The least importance lost among choices that take at most `limit` µs; the fastest found if none does.

    Args:
        candidates: per unit, the widths to choose among.
        limit: µs.
        start: where to descend from.
    """
    high = 100 * _first_price(problem, start)
    return within(problem, candidates, limit, start, (high * 1e-8, high), 3 * STEPS)


def within(
    problem: WidthProblem,
    candidates: Sequence[Sequence[int]],
    limit: float,
    start: Choice,
    prices: tuple[float, float],
    steps: int,
) -> Allocation:
    """As `most_important`, with so many steps of bisection between two prices, the lower one that of a fast choice."""
    low, high = prices
    choice = descend(problem, candidates, low, list(start))
    best = reckon(problem, choice)
    if best.latency > limit:
        return replace(best, price=low)
    for _ in range(steps):
        price = (low * high) ** 0.5
        choice = descend(problem, candidates, price, choice)
        found = reckon(problem, choice)
        if found.latency <= limit:
            low = price
            best = min(best, found, key=lambda a: (a.lost, a.latency))
        else:
            high = price
    return replace(_spend(problem, candidates, best, lambda a: a.latency <= limit, "lost"), price=low)


def descend(problem: WidthProblem, candidates: Sequence[Sequence[int]], price: float, start: Choice) -> Choice:
    """A choice that no change of a single unit improves, for this price of importance (µs per unit of it)."""
    choice = list(start)
    moved = set(range(len(choice)))  # a unit whose neighbours stand as they did has its best width
    for _ in range(SWEEPS):
        if not moved:
            break
        due, moved = moved, set[int]()
        for unit, widths in enumerate(candidates):
            if unit not in due:
                continue
            best = _best_width(problem, unit, widths, price, choice)
            if best != choice[unit]:
                choice[unit] = best
                for other in problem.beside(unit):
                    (due if other > unit else moved).add(other)
    return choice


def _best_width(problem: WidthProblem, unit: int, widths: Sequence[int], price: float, choice: Choice) -> int:
    lost = problem.units[unit].lost
    here = choice[unit]
    totals = [us + price * lost[n] for us, n in zip(problem.curve(unit, widths, choice), widths, strict=True)]
    least = min(totals)
    stay = totals[widths.index(here)] if here in widths else problem.around(unit, choice) + price * lost[here]
    return here if stay <= least + SLACK else widths[totals.index(least)]


def _spend(
    problem: WidthProblem,
    candidates: Sequence[Sequence[int]],
    start: Allocation,
    allowed: Callable[[Allocation], bool],
    wanted: str,
) -> Allocation:
    """Make single moves that lower what is wanted and stay allowed, the best ratio of gain to cost first."""
    best = start
    other = "lost" if wanted == "latency" else "latency"

    def gain_over_cost(move: Allocation, base: Allocation) -> float:
        cost = getattr(move, other) - getattr(base, other)
        return float((getattr(base, wanted) - getattr(move, wanted)) / max(cost, 1e-6))

    for _ in range(ROUNDS):
        moves = [
            (-gain_over_cost(move, best), unit, move.choice[unit])
            for unit, widths in enumerate(candidates)
            for move in _moves(problem, best, unit, widths)
            if getattr(move, wanted) < getattr(best, wanted) - SLACK
        ]
        before = best
        for _, unit, width in sorted(moves):
            [move] = _moves(problem, best, unit, (width,))
            if allowed(move) and getattr(move, wanted) < getattr(best, wanted) - SLACK:
                best = move
        if best is before:
            break
    return best


def _moves(problem: WidthProblem, base: Allocation, unit: int, widths: Sequence[int]) -> list[Allocation]:
    """The base with one unit at each of these widths."""
    choice, lost = list(base.choice), problem.units[unit].lost
    here = base.choice[unit]
    before, *after = problem.curve(unit, (here, *widths), choice)
    return [
        Allocation(
            (*choice[:unit], width, *choice[unit + 1 :]),
            base.latency - before + us,
            base.lost + lost[width] - lost[here],
        )
        for us, width in zip(after, widths, strict=True)
    ]


def reckon(problem: WidthProblem, choice: Choice) -> Allocation:
    """What a choice costs and loses."""
    return Allocation(tuple(choice), problem.latency(choice), problem.lost(choice))


def _first_price(problem: WidthProblem, choice: Choice) -> float:
    """A price at which importance outweighs all latency: the bisection's upper end."""
    importance = sum(unit.lost[0] for unit in problem.units)
    return 100 * problem.latency(choice) / max(importance, 1e-9)
