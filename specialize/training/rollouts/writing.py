"""The student's texts: what it samples from the inputs of a window's examples.

Each text has a random key of its own, made of the seed, the window and the example's
number in it. It therefore depends on neither the batch in which it is written nor the
number of processes, except for the rounding of sums.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from specialize import sharding
from specialize.inference.engine import Engine, Tokenizer
from specialize.inference.spec import DecodingSpec
from specialize.training.data.spec import DataSpec
from specialize.training.rollouts.windows import Asked

# Separates these random keys from those of dropout and of initial weights.
_STREAM = 7


class Group(NamedTuple):
    """Texts that were written together.

    Attributes:
        examples: number of each example within the window.
        inputs: input ids, padded with 0; rows after the examples repeat the last one.
        tokens: ids of the texts up to EOS, then 0, on the devices.
    """

    examples: Int[np.ndarray, " G"]
    inputs: Int[np.ndarray, "B S"]
    tokens: jax.Array


class Texts(NamedTuple):
    """The M texts of a window, before a teacher has read them.

    Attributes:
        asked: the examples that they are written for.
        groups: the texts as they were written.
        ids: ids of each text, at least one.
        ended: whether the student ended it.
    """

    asked: Asked
    groups: list[Group]
    ids: list[Int[np.ndarray, " _"]]
    ended: Bool[np.ndarray, " M"]


class Writer:
    """Samples the targets of a window.

    Args:
        module: the student's network.
        tokenizer: its vocabulary.
        mesh: the devices.
        data: lengths, seed and rollouts of the run.
        usual: number of texts of most windows, which are divided evenly.
        readable: number of the first ids that the teacher can read.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: Tokenizer,
        mesh: Mesh,
        data: DataSpec,
        usual: int,
        readable: int,
    ) -> None:
        shards = sharding.batch_shards(mesh)
        groups = -(-usual // data.rollouts.batch_size)
        rows = -(-usual // groups)
        decoding = DecodingSpec(
            method="sample",
            temperature=data.rollouts.temperature,
            seed=data.seed,
            batch_size=-(-rows // shards) * shards,
            input_length=data.lengths["inputs"],
            output_length=data.lengths["targets"],
        )
        self._engine = Engine(module, None, tokenizer, mesh, decoding)
        self._texts = jax.jit(
            functools.partial(of_texts, eos_id=tokenizer.eos_id, readable=readable),
            out_shardings=sharding.replicated(mesh),
        )

    def write(
        self, params: Any, number: int, inputs: Sequence[Sequence[int]]
    ) -> Iterator[Group]:
        """Writes a text for each of a window's inputs, which end with EOS.

        Yields:
            The texts of similar inputs, before the devices have finished them.
        """
        engine, size = self._engine, self._engine.decoding.batch_size
        engine.params = params
        order = sorted(range(len(inputs)), key=lambda i: (-len(inputs[i]), i))
        for begin in range(0, len(order), size):
            chosen = np.asarray(order[begin : begin + size])
            length = engine.padded_length(len(inputs[chosen[0]]))
            padded = np.zeros((size, length), np.int32)
            rows = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen))])
            for row, example in enumerate(rows):
                padded[row, : len(inputs[example])] = inputs[example]
            found = engine.decode(
                [inputs[example] for example in chosen],
                length,
                self._keys(number, rows),
            )
            yield Group(chosen, padded, self._texts(found.tokens))
        engine.params = None  # the next step takes their memory

    def _keys(self, number: int, examples: Int[np.ndarray, " B"]) -> jax.Array:
        first = jax.random.key(self._engine.decoding.seed)
        base = jax.random.fold_in(jax.random.fold_in(first, _STREAM), number)
        return jax.vmap(lambda one: jax.random.fold_in(base, one))(
            jnp.asarray(examples, jnp.uint32)
        )


def of_texts(
    tokens: Int[jax.Array, "B L"], *, eos_id: int, readable: int
) -> Int[jax.Array, "B L"]:
    """Drawn ids as those of texts, which the teacher reads and the student learns.

    An id that the teacher cannot read is padding, which no text holds: the text is cut
    before it (`lengths_of`). One that would begin with padding is EOS alone.
    """
    tokens = jnp.where(tokens < readable, tokens, 0)
    return tokens.at[:, 0].set(jnp.where(tokens[:, 0] == 0, eos_id, tokens[:, 0]))


def lengths_of(
    tokens: Int[np.ndarray, "B L"], eos_id: int
) -> tuple[Int[np.ndarray, " B"], np.ndarray]:
    """The tokens of every text, and whether the student ended it.

    A text ends at its EOS. One in which the student drew padding, which no text holds,
    is cut before it. Every text has at least one position, because what the teacher
    would have written first is known in any case.
    """
    length = tokens.shape[1]
    ends = tokens == eos_id
    pads = tokens == 0
    first_end = np.where(ends.any(1), ends.argmax(1), length)
    first_pad = np.where(pads.any(1), pads.argmax(1), length)
    ended = first_end < np.minimum(first_pad, length)
    sizes = np.where(ended, first_end + 1, first_pad)
    return np.maximum(sizes, 1), ended
