"""Group-relative advantages, and the clipped loss that stays right for rollouts of an older policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsenv.errors import one_of
from dsenv.metrics import Doubles

ADVANTAGES = ("standardised", "centred")
SMALL = 1e-6


def advantages(rewards: Doubles, kind: str = "standardised") -> Doubles:
    """Return rewards against the mean of their group, (q, G).

    ``standardised`` divides by the group's unbiased standard deviation plus 1e-6 (GRPO, arXiv 2402.03300); ``centred`` does
    not (arXiv 2503.20783). A group of equal rewards gets zeros.
    """
    one_of("advantages", kind, ADVANTAGES)
    centred = rewards - rewards.mean(1, keepdims=True)
    if kind == "centred":
        return np.asarray(centred)
    return np.asarray(centred / (rewards.std(1, ddof=1, keepdims=True) + SMALL))


def reweighted_advantages(rewards: Doubles, log_weights: Doubles) -> Doubles:
    """Return the rewards of older rollouts against what their group would have under the policy as it is now, (q, G).

    Mean and standard deviation (the biased one, plus 1e-6) of a group are weighted by w.

    Args:
        rewards: (q, G).
        log_weights: (q, G) log w: mean over tokens of log π - log π_b.

    Source: CROPI, arXiv 2510.26491, the form "acg" of its code.
    """
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    centred = rewards - (weights * rewards).sum(1, keepdims=True)
    spread = np.sqrt((weights * centred**2).sum(1, keepdims=True))
    return np.asarray(centred / (spread + SMALL))


def objective(current: Any, start: Any, behaviour: Any, advantage: Any, clip: float = 0.2) -> Any:
    """Return the clipped objective of every token, to be maximised.

    min(ρ A, clip(ρ, (1 - ε) ω, (1 + ε) ω) A) with ρ = π / π_b and ω = π_o / π_b: a rollout of an older policy is weighted by
    importance, and the band allows the update to move from where it starts (π_o), not from where the rollout was drawn
    (arXiv 2506.05316, as coded). For fresh rollouts π_o = π_b, and it is PPO's.

    Args:
        current: log π, a tensor with a gradient; the others broadcast with it.
        start: log π_o, the policy at the start of the update.
        behaviour: log π_b, stored when the token was drawn.
        advantage: A.
        clip: ε.
    """
    ratio = (current - behaviour).exp()
    centre = (start - behaviour).exp()
    clipped = ratio.clamp(min=(1 - clip) * centre, max=(1 + clip) * centre)
    return (ratio * advantage).minimum(clipped * advantage)


def kl_estimate(current: Any, reference: Any) -> Any:
    """Return an unbiased, non-negative estimate of KL(π || π_ref) for every token: r - log r - 1, r = π_ref / π."""
    gap = reference - current
    return gap.exp() - gap - 1
