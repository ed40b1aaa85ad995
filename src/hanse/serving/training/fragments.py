"""A streamed exchange, event by event: which layer's wait stops computing, and for how long.

Here: the share of time that computes, for steps of known length. Not here: how long a step is, loss, energy (`forecast`, `loss`).

The model is the one that arXiv 2501.18512 (section 3.1, Figure 3) describes: a graph of layers. A step passes forward through layers
1..L and back through L..1; a layer's outer gradient may be sent when its backward pass in the sending step is done, over one link that
carries one thing at a time; the layer's forward pass `delay_steps` + 1 steps later waits for the answer. Fragments are strided (layer l is in
fragment l mod P) and go out H/P steps apart. One fragment, no delay: DiLoCo; and one inner step: data parallel.

Checked on all 75 cells of that paper's Table 4 (1B, 10B and 100B; five methods; utilisation 50 to 99 %; H 100): the bandwidth found here over the
published one is 0.87 to 1.22, and the table itself stands on a grid of steps of 1.207. On the 15 cells for H 30 and one step of delay in
arXiv 2502.12996 (Table 5) it is 0.99 to 1.26 if one fragment goes out every step, which is what those cells show. That paper's
cells for a delay of a whole round lie below the mean rate that their own exchanges need; they are not reproduced, so delays beyond H/P have no answer.

Not in it: the network inside a site, embeddings apart from layers (parameters are spread evenly), links that share their rate.
"""

from __future__ import annotations

from typing import Final

FORWARD_SHARE: Final = 1.0 / 3.0
"""Of a step's operations: 2 of the 6 per parameter and token (arXiv 2001.08361), the other 4 go backward."""
WARM_ROUNDS: Final = 2
ROUNDS: Final = 4
"""With delays of at most H/P a round repeats itself after the first; more rounds change nothing (tested)."""


def streamed_utilisation(
    *,
    step_s: float,
    layers_n: int,
    fragments_n: int,
    inner_steps: int,
    delay_steps: int,
    layer_exchange_s: float,
    latency_s: float,
    rounds: int = ROUNDS,
) -> float:
    """Share of time in which sites compute, in (0, 1].

    Args:
        step_s: Computing of one step.
        layer_exchange_s: How long one layer occupies the link.
        latency_s: Added to every answer, but the link is free meanwhile.
        rounds: Rounds measured, after those that warm up.
    """
    sent = _schedule(fragments_n, inner_steps, layers_n)
    forward_s = step_s * FORWARD_SHARE / layers_n
    backward_s = step_s * (1.0 - FORWARD_SHARE) / layers_n
    awaited: dict[int, list[tuple[int, float]]] = {}
    now_s = link_free_s = began_s = 0.0
    for step in range(inner_steps * (WARM_ROUNDS + rounds)):
        if step == inner_steps * WARM_ROUNDS:
            began_s = now_s
        now_s = _forward(now_s, forward_s, layers_n, awaited.pop(step, []))
        for layer in sent.get(step % inner_steps, ()):
            ready_s = now_s + (layers_n - layer) * backward_s
            link_free_s = max(link_free_s, ready_s) + layer_exchange_s
            awaited.setdefault(step + 1 + delay_steps, []).append((layer, link_free_s + latency_s))
        now_s += layers_n * backward_s
    return min(1.0, rounds * inner_steps * step_s / (now_s - began_s))


def _schedule(fragments_n: int, inner_steps: int, layers_n: int) -> dict[int, tuple[int, ...]]:
    """Layers, deepest first, that each step of a round sends."""
    sent: dict[int, tuple[int, ...]] = {}
    for fragment in range(fragments_n):
        step = ((fragment + 1) * inner_steps) // fragments_n - 1
        sent[step] = tuple(reversed(range(fragment, layers_n, fragments_n)))
    return sent


def _forward(
    now_s: float, layer_s: float, layers_n: int, awaited: list[tuple[int, float]]
) -> float:
    """When a forward pass ends that waits for these layers' answers."""
    passed = 0
    for layer, answer_s in sorted(awaited):
        now_s = max(now_s + (layer - passed) * layer_s, answer_s)
        passed = layer
    return now_s + (layers_n - passed) * layer_s
