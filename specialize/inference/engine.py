"""Text in, text out: tokenize, bucket by length, decode on the mesh, in any order.

The batches depend only on the prompts and the engine's settings. An interrupted run
therefore forms the same batches again and skips those that it has finished, with the
same random keys, so resuming never changes a text.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from specialize import sharding
from specialize.errors import InputError
from specialize.inference.spec import DecodingSpec
from specialize.student.decoding.decoding import Generated, generate

# Encoder lengths that batches are padded to: 32, 64, 96, 128, then four per doubling.
# They are few, so compiling them is cheap, and close: above 96 tokens the padding
# fraction stays below a quarter.
_LENGTHS = (32, 64, 96) + tuple(
    quarter * 2**power for power in range(5, 11) for quarter in (4, 5, 6, 7)
)


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a vocabulary that the engine needs."""

    @property
    def eos_id(self) -> int:
        """The id that ends an answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; stops at EOS."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """The texts that were decoded for one prompt.

    Attributes:
        index: index of the prompt.
        texts: one text, or `num_samples` of them, or the best beam.
        scores: log-probability of each text, in nats.
        num_tokens: number of decoded tokens of each text, EOS included.
        truncated: number of input tokens cut from the front of a too long prompt.
        ids: token ids of each text, EOS included.
        steps: of each text its "ids" [L], and "top_ids" and "top_logprobs" [L K] of the
            model's distribution at each of them, as lists; none unless asked for.
    """

    index: int
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    num_tokens: tuple[int, ...]
    truncated: int = 0
    ids: tuple[tuple[int, ...], ...] = ()
    steps: tuple[dict[str, list[Any]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """One batch: its number, its encoder length and the indices of its prompts."""

    number: int
    length: int
    indices: tuple[int, ...]


class Engine:
    """Decodes prompts with one set of weights on one mesh.

    Args:
        module: the network (`student.module`).
        params: its weights, on the mesh.
        tokenizer: text to ids and back.
        mesh: the devices; data-parallel over all axes but "model".
        decoding: how texts are generated. Its batch size must be a multiple of the
            data-parallel devices. A prompt that is longer than its input length loses
            its front, never its question; `truncated` counts the lost tokens.

    Raises:
        InputError: the batch size is not such a multiple.
    """

    def __init__(
        self,
        module: Any,
        params: Any,
        tokenizer: Tokenizer,
        mesh: Mesh,
        decoding: DecodingSpec = DecodingSpec(),
    ):
        ways = sharding.batch_shards(mesh)
        if decoding.batch_size % ways:
            raise InputError(
                f"batch_size={decoding.batch_size} does not divide over the {ways} "
                f"data-parallel devices of the mesh {dict(mesh.shape)}. Use a multiple "
                f"of {ways}."
            )
        self.module = module
        self.params = params
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.decoding = decoding
        self._sharding = sharding.batch_sharding(mesh)
        self._replicated = sharding.replicated(mesh)
        self._compiled: dict[int, Callable[..., Any]] = {}

    def check_alternatives(self, option: str, value: int) -> None:
        """Refuses more alternatives per token than the network has.

        Args:
            option: The option that asks for them.
            value: Their number.

        Raises:
            InputError: There are not as many.
        """
        size = self.module.config.vocab_size
        if not 0 <= value <= size:
            raise InputError(
                f"{option} = {value}; the network has {size} ids: ask for "
                f"0 to {size} alternatives per token."
            )

    def buckets(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[Bucket]]:
        """Token ids of every prompt, and the batches in which they are decoded.

        Returns:
            (ids with EOS, batches), longest batches first, so that a lack of memory
            shows at once.
        """
        ids = [
            [*self.tokenizer.encode(text), self.tokenizer.eos_id] for text in prompts
        ]
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        found: list[Bucket] = []
        for begin in range(0, len(order), self.decoding.batch_size):
            chosen = order[begin : begin + self.decoding.batch_size]
            length = self.padded_length(len(ids[chosen[0]]))
            found.append(Bucket(len(found), length, tuple(chosen)))
        return ids, found

    def padded_length(self, tokens: int) -> int:
        """The encoder length of a batch whose longest prompt has `tokens` tokens."""
        longest = min(tokens, self.decoding.input_length)
        length = next((n for n in _LENGTHS if n >= longest), longest)
        return min(length, self.decoding.input_length)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        done: Collection[int] = (),
        alternatives: int = 0,
    ) -> Iterator[Generation]:
        """Decodes `prompts`.

        Args:
            prompts: encoder texts.
            done: indices finished earlier; a batch is skipped if all of its are done.
            alternatives: K of the distributions to return with the texts; 0: none.

        Yields:
            One `Generation` per prompt, batch by batch, not in the prompts' order.
        """
        ids, buckets = self.buckets(prompts)
        finished = set(done)
        pending = None
        for bucket in buckets:
            if finished.issuperset(bucket.indices):
                continue
            key = jax.random.fold_in(jax.random.key(self.decoding.seed), bucket.number)
            rows = [ids[index] for index in bucket.indices]
            result = self.decode(rows, bucket.length, key, alternatives=alternatives)
            # The device decodes this batch while the host detokenizes the last one.
            if pending is not None:
                yield from self._spell(*pending)
            pending = (bucket, ids, result)
        if pending is not None:
            yield from self._spell(*pending)

    def decode(
        self,
        rows: Sequence[Sequence[int]],
        length: int,
        rng: jax.Array,
        *,
        alternatives: int = 0,
    ) -> Generated:
        """Decodes one batch of token ids; returns before the device has finished.

        Args:
            rows: at most `batch_size` sequences of ids, EOS last; a sequence that is
                longer than `length` loses its front.
            length: length of the encoder.
            rng: a key, or one for each of the `batch_size` sequences.
            alternatives: K of the distributions to return with the tokens; 0: none.

        Returns:
            `batch_size` sequences; those after the given ones repeat the last of them.
        """
        tokens = np.zeros((self.decoding.batch_size, length), np.int32)
        for row, ids in enumerate(rows):
            kept = ids[-length:]
            tokens[row, : len(kept)] = kept
        # An empty sequence would never emit EOS and would delay the others.
        tokens[len(rows) :] = tokens[len(rows) - 1]
        batch = jax.make_array_from_callback(
            tokens.shape, self._sharding, lambda where: tokens[where]
        )
        if alternatives not in self._compiled:

            def run(params: Any, batch: jax.Array, key: jax.Array) -> Any:
                return generate(
                    self.module,
                    params,
                    batch,
                    self.decoding,
                    max_length=self.decoding.output_length,
                    rng=key,
                    eos_id=self.tokenizer.eos_id,
                    alternatives=alternatives,
                )

            self._compiled[alternatives] = jax.jit(run, out_shardings=self._replicated)
        with jax.set_mesh(self.mesh):
            return self._compiled[alternatives](self.params, batch, rng)

    def _spell(
        self, bucket: Bucket, ids: list[list[int]], result: Any
    ) -> Iterator[Generation]:
        tokens = np.asarray(result.tokens)
        scores = np.asarray(jnp.asarray(result.scores))
        tokens = tokens.reshape(self.decoding.batch_size, -1, tokens.shape[-1])
        scores = scores.reshape(self.decoding.batch_size, -1)
        tops: list[np.ndarray] = []
        if result.steps is not None:
            tops = [np.asarray(x) for x in result.steps[1:]]
        for row, index in enumerate(bucket.indices):
            decoded = tuple(
                tuple(sequence[: self._length(sequence)].tolist())
                for sequence in tokens[row]
            )
            steps = [
                {
                    "ids": list(ids_of),
                    "top_ids": tops[0][row, number, : len(ids_of)].tolist(),
                    "top_logprobs": tops[1][row, number, : len(ids_of)].tolist(),
                }
                for number, ids_of in enumerate(decoded if tops else ())
            ]
            yield Generation(
                index,
                tuple(self.tokenizer.decode(sequence) for sequence in decoded),
                tuple(float(score) for score in scores[row]),
                tuple(map(len, decoded)),
                max(0, len(ids[index]) - self.decoding.input_length),
                decoded,
                tuple(steps),
            )

    def _length(self, sequence: np.ndarray) -> int:
        ends = np.flatnonzero(sequence == self.tokenizer.eos_id)
        return int(ends[0]) + 1 if ends.size else int(len(sequence))
