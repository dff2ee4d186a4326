"""The encoded prompts of a batch, and one step of the decoder.

The encoder runs once; its keys and values are computed once and shared by all
continuations of a prompt. The cache of the decoder's own keys and values grows in
stretches, so that early positions do not read space that only late positions need.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from specialize.student import int8
from specialize.student.adapters.trees import CAST
from specialize.student.attention import cache
from specialize.student.attention.attention import MASKED
from specialize.student.layers import constrain
from specialize.student.network.layout import unroll_params
from specialize.student.network.transformer import Transformer

# Number of positions in the cache in the first stretch of the loop; it doubles.
FIRST_ROOM = 64


class Source:
    """The encoded prompts and one step of the decoder, ready for a loop."""

    def __init__(
        self,
        module: Transformer,
        params: PyTree,
        tokens: jax.Array,
        length: int,
        weights: str = "float",
    ):
        # Unrolled, because a scan would copy the whole cache at every step.
        config = dataclasses.replace(
            module.config, scan_layers=False, remat_policy="none"
        )
        self.module = module.clone(config=config)
        unrolled = unroll_params(params)
        if weights == "int8":
            unrolled = int8.with_codes(unrolled)
        self.params = _in_compute_dtype(unrolled, config.dtype)
        self.config = config
        self.rows = tokens.shape[0]
        self.length = length
        real = tokens > 0
        self.empty_rows = ~jnp.any(real, axis=1)
        encoded = self._apply("encode", tokens, enable_dropout=False)
        self.weights = weights
        self.layers = [
            self._stored(layer) for layer in self._apply("remember", encoded)
        ]
        self.bias = jnp.where(real, 0.0, MASKED).astype(jnp.float32)
        self.distances = self._apply("position_biases", length)

    def _apply(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.module.apply(
            {"params": self.params}, *args, method=method, **kwargs
        )

    def _stored(self, known: cache.KeysValues) -> cache.KeysValues:
        return known.in_8_bits() if self.weights == "int8" else known

    def stretches(self) -> list[int]:
        """The number of positions in the cache in each stretch of the loop."""
        rooms = [min(FIRST_ROOM, self.length)]
        while rooms[-1] < self.length:
            rooms.append(min(2 * rooms[-1], self.length))
        return rooms

    def no_past(self, continuations: int) -> list[cache.KeysValues]:
        """Returns empty keys and values of the first stretch's size."""
        past = cache.empty(
            self.rows * continuations,
            self.config.num_heads,
            self.stretches()[0],
            self.config.head_dim,
            jnp.dtype(self.config.dtype),
        )
        axes = ("batch", "heads", "length", "kv")
        past = jax.tree.map(lambda x: constrain(x, *axes), self._stored(past))
        return [past] * self.config.num_decoder_layers

    def step(
        self,
        tokens: Int[Array, "B N"],
        position: Int[Array, ""],
        pasts: list[cache.KeysValues],
        ancestors: Int[Array, "B N T"] | None = None,
    ) -> tuple[Float[Array, "B N V"], list[cache.KeysValues]]:
        """Returns the logits after `tokens` at `position`, and the longer past."""
        room = pasts[0].room

        def view(distances: jax.Array) -> cache.View:
            # The distance of slot t is t - position; the table ends at distance 0.
            table = jnp.pad(
                distances, ((0, 0), (0, room)), constant_values=jnp.float32(MASKED)
            )
            past_bias = jax.lax.dynamic_slice_in_dim(
                table, self.length - 1 - position, room, axis=1
            )
            return cache.View(position, past_bias, self.bias, ancestors)

        # Layers that share a bias share its view.
        biases = {id(distances): distances for distances in self.distances}
        views = {key: view(distances) for key, distances in biases.items()}
        each = [views[id(distances)] for distances in self.distances]
        return self._apply("step", tokens, pasts, self.layers, each)


def _in_compute_dtype(params: PyTree, dtype: Any) -> PyTree:
    """Casts the matrices once instead of at every step; norms and biases stay."""

    def cast(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        if path[-1].key in CAST:
            return value.astype(dtype)
        return value

    return jax.tree_util.tree_map_with_path(cast, params)
