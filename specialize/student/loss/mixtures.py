"""Divergences of two distributions from their mixture, accurate at every weight.

Written as they are defined, these divergences are differences of nearly equal numbers,
divided by a weight that may be tiny: in float32 the result is noise. Adding m - p or
m - q to each event, whose sum over events is 0, leaves terms that cannot be negative.
With m = b p + (1-b) q, v = m/p - 1, w = m/q - 1 and g(x) = 1 - log(1+x)/x, which has
the sign of x:

    KL(p || m)/(1-b) = sum (q - p) g(v),   KL(q || m)/b = sum (p - q) g(w)

Here v = (1-b) (q/p - 1) and w = b (p/q - 1) follow from the difference of the
log-probabilities, and only g needs care near 0.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Distance(NamedTuple):
    """How far the mixture is from one of its two distributions, event by event.

    Attributes:
        ratio: mixture / distribution = 1 + x.
        slope: log(1+x)/x; 1 where x is 0.
        gap: 1 - slope, exact near x = 0, and with the sign of x.
    """

    ratio: Float[Array, "N E"]
    slope: Float[Array, "N E"]
    gap: Float[Array, "N E"]


class Comparison(NamedTuple):
    """Two distributions p and q and their mixture.

    Attributes:
        difference: p - q.
        growth: p/q - 1, at most about the largest number.
        of_p: the distance of the mixture from p.
        of_q: the distance of the mixture from q.
    """

    difference: Float[Array, "N E"]
    growth: Float[Array, "N E"]
    of_p: Distance
    of_q: Distance


def jensen_shannon(
    log_p: Float[Array, "N E"], log_q: Float[Array, "N E"], beta: float
) -> tuple[Float[Array, "N E"], Float[Array, "N E"]]:
    """(b KL(p || m) + (1-b) KL(q || m)) / (b (1-b)) with m = b p + (1-b) q.

    Args:
        log_p: log-probabilities of the teacher; -inf for an impossible event.
        log_q: those of the student.
        beta: b, from `spec.LEAST_SHARE` to below 1.

    Returns:
        What each event adds to the value, never negative; and the derivative of the
        value with respect to its q, up to a number that all events share.
    """
    found = _compare(log_p, log_q, beta)
    value = found.difference * (found.of_q.gap - found.of_p.gap)
    return value, -found.growth * found.of_q.slope


def skewed(
    log_p: Float[Array, "N E"], log_q: Float[Array, "N E"], alpha: float
) -> tuple[Float[Array, "N E"], Float[Array, "N E"]]:
    """KL(p || m) with m = a p + (1-a) q; arguments and result as `jensen_shannon`."""
    found = _compare(log_p, log_q, alpha)
    rest = 1 - alpha
    value = -rest * found.difference * found.of_p.gap
    return value, -(rest**2) * found.growth / found.of_q.ratio


def _compare(
    log_p: Float[Array, "N E"], log_q: Float[Array, "N E"], share: float
) -> Comparison:
    """Compares p and q with share p + (1 - share) q."""
    # Odds beyond this would overflow. An event with such odds adds the same as at them.
    limit = math.floor(-math.log(jnp.finfo(log_p.dtype).tiny))
    # Both sides may be impossible: the difference of two infinities is no number.
    possible = jnp.maximum(log_p, log_q) > -jnp.inf
    odds = jnp.clip(jnp.where(possible, log_p - log_q, 0), -limit, limit)
    growth, shrinkage = jnp.expm1(odds), jnp.expm1(-odds)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    # 1 - share is rounded once, after the subtraction: in float32 it could become 1.
    rest = 1 - share
    return Comparison(
        # Not p - q, whose sign may differ from that of the odds where they are close.
        difference=jnp.where(odds > 0, -p * shrinkage, q * growth),
        growth=growth,
        of_p=_distance(rest * shrinkage, share + rest * jnp.exp(-odds)),
        of_q=_distance(share * growth, rest + share * jnp.exp(odds)),
    )


def _distance(x: Float[Array, "N E"], ratio: Float[Array, "N E"]) -> Distance:
    """The functions of x, with 1 + x given beside it because x may be close to -1."""
    # log(1+x) = 2 (z + z^3/3 + z^5/5 + ...), and x = 2 z / (1 - z).
    z = x / (1 + ratio)
    near = jnp.abs(z) <= 1 / 3
    terms = math.ceil(math.log(float(jnp.finfo(x.dtype).eps), 1 / 9))
    square = z * z
    series = jnp.full_like(z, 1 / (2 * terms + 1))
    for term in reversed(range(1, terms)):
        series = 1 / (2 * term + 1) + square * series
    small = z * (1 - (1 - z) * z * series)
    slope = jnp.log(ratio) / jnp.where(near, 1, x)
    return Distance(
        ratio=ratio,
        slope=jnp.where(near, 1 - small, slope),
        gap=jnp.where(near, small, 1 - slope),
    )
