"""A network on packed rows with dropout: what two ways of attending must agree on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from specialize.student.network.transformer import Transformer


def rows(segments, seed, vocabulary):
    """(tokens, segments): random tokens, padding where the segment is 0."""
    tokens = np.random.default_rng(seed).integers(1, vocabulary, segments.shape)
    return jnp.asarray(tokens * (segments > 0)), jnp.asarray(segments)


@functools.partial(jax.jit, static_argnums=0)
def logits_and_gradients(config, params, source, target):
    """Of a random weighting of the logits at real targets."""
    (x, of_source), (y, of_target) = source, target
    weights = jax.random.normal(jax.random.key(2), (*y.shape, config.vocab_size))

    def loss(params):
        logits = Transformer(config).apply(
            {"params": params},
            x,
            jnp.roll(y, 1, axis=1),
            y,
            of_source,
            of_target,
            rngs={"dropout": jax.random.key(3, impl="unsafe_rbg")},
        )
        counted = jnp.where((of_target > 0)[..., None], logits, 0.0)
        return jnp.sum(counted * weights), counted

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, gradients


def assert_close(found, wanted, tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        found,
        wanted,
    )
