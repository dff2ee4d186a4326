"""Text in, text out: tokenize, bucket by length, decode on the mesh, in any order.

The batches are a function of the prompts and the engine's settings alone. A run that
was cut off therefore forms the same batches again and skips those it has finished, with
the same random keys, so resuming never changes a text.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from specialize.errors import InputError
from specialize.student.decoding import decoding

# Encoder lengths a batch is padded to: 32, 64, 96, 128 and from there four to each
# doubling. Few enough that compiling them is cheap, close enough that beyond 96 tokens
# padding stays below a quarter.
_LENGTHS = (32, 64, 96) + tuple(
    quarter * 2**power for power in range(5, 11) for quarter in (4, 5, 6, 7)
)


@runtime_checkable
class Tokenizer(Protocol):
    """What the engine needs of a vocabulary."""

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; stops at EOS."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """What was decoded for one prompt.

    Attributes:
        index: of the prompt.
        texts: one text, or `num_samples` of them, or the best beam.
        scores: log-probability of each text, in nats.
        num_tokens: decoded tokens of each text, EOS included.
        truncated: input tokens cut from the front because the prompt was too long.
    """

    index: int
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    num_tokens: tuple[int, ...]
    truncated: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """One batch: its number, its encoder length and the prompts in it."""

    number: int
    length: int
    indices: tuple[int, ...]


class Engine:
    """Decodes prompts with one set of weights on one mesh.

    Args:
        module: the network (`student.module`).
        params: its weights, on the mesh.
        tokenizer: text to ids and back.
        mesh: data-parallel over all axes but "model".
        batch_size: prompts a batch; a multiple of the data-parallel devices.
        input_length: at most this many input tokens, EOS included. A longer prompt
            loses its front, never its question, and says so in `truncated`.
        output_length: at most this many output tokens, EOS included.

    Raises:
        InputError: the batch does not divide over the mesh.
    """

    def __init__(
        self,
        module: Any,
        params: Any,
        tokenizer: Tokenizer,
        mesh: Mesh,
        *,
        batch_size: int = 32,
        input_length: int = 2048,
        output_length: int = 256,
    ):
        axes = tuple(name for name in mesh.axis_names if name != "model")
        ways = int(np.prod([mesh.shape[name] for name in axes]))
        if batch_size % ways:
            raise InputError(
                f"batch_size={batch_size} does not divide over the {ways} "
                f"data-parallel devices of the mesh {dict(mesh.shape)}. Use a multiple "
                f"of {ways}."
            )
        self.module = module
        self.params = params
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.batch_size = batch_size
        self.input_length = input_length
        self.output_length = output_length
        self._sharding = NamedSharding(mesh, PartitionSpec(axes))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def buckets(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[Bucket]]:
        """Token ids of every prompt, and the batches they are decoded in.

        Args:
            prompts: encoder texts.

        Returns:
            (ids with EOS, batches), longest batches first, so that a lack of memory
            shows at once.
        """
        ids = [
            [*self.tokenizer.encode(text), self.tokenizer.eos_id] for text in prompts
        ]
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        found: list[Bucket] = []
        for begin in range(0, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            length = self.padded_length(len(ids[chosen[0]]))
            found.append(Bucket(len(found), length, tuple(chosen)))
        return ids, found

    def padded_length(self, tokens: int) -> int:
        """The encoder length of a batch whose longest prompt has so many tokens."""
        longest = min(tokens, self.input_length)
        length = next((n for n in _LENGTHS if n >= longest), longest)
        return min(length, self.input_length)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        method: str = "greedy",
        temperature: float = 1.0,
        top_p: float = 1.0,
        num_samples: int = 1,
        num_beams: int = 4,
        seed: int = 0,
        done: Collection[int] = (),
    ) -> Iterator[Generation]:
        """Decodes `prompts`.

        Args:
            prompts: encoder texts.
            method: "greedy", "sample" or "beam".
            temperature: of sampling; above 0.
            top_p: nucleus of sampling, in (0, 1].
            num_samples: texts a prompt when sampling.
            num_beams: beams; the best is returned.
            seed: of sampling.
            done: indices finished earlier; a batch of which all are done is skipped.

        Yields:
            One `Generation` a prompt, batch by batch, not in the prompts' order.
        """
        options = {
            "greedy": {},
            "sample": dict(
                temperature=temperature, top_p=top_p, num_samples=num_samples
            ),
            "beam": dict(num_beams=num_beams),
        }
        if method not in options:
            raise InputError(
                f"unknown decoding method {method!r}: use one of {sorted(options)}."
            )
        ids, buckets = self.buckets(prompts)
        finished = set(done)
        pending = None
        for bucket in buckets:
            if finished.issuperset(bucket.indices):
                continue
            key = jax.random.fold_in(jax.random.key(seed), bucket.number)
            rows = [ids[index] for index in bucket.indices]
            result = self.decode(rows, bucket.length, key, method, **options[method])
            # The device works on this batch while the host spells out the last one.
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
        method: str,
        **options: Any,
    ) -> decoding.Generated:
        """Decodes one batch of token ids; returns before the device has finished.

        Args:
            rows: at most `batch_size` rows of ids, EOS last; the front of a row that
                is longer than `length` is cut.
            length: the encoder's.
            rng: a key, or one for each of the `batch_size` rows.
            method: as of `decoding.generate`, like the options.
            **options: hashable.

        Returns:
            `batch_size` rows; those behind the given ones repeat the last of them.
        """
        tokens = np.zeros((self.batch_size, length), np.int32)
        for row, ids in enumerate(rows):
            kept = ids[-length:]
            tokens[row, : len(kept)] = kept
        # An empty row would never emit EOS and keep the others waiting.
        tokens[len(rows) :] = tokens[len(rows) - 1]
        batch = jax.make_array_from_callback(
            tokens.shape, self._sharding, lambda where: tokens[where]
        )
        signature = (method, tuple(sorted(options.items())))
        if signature not in self._compiled:

            def run(params: Any, batch: jax.Array, key: jax.Array) -> Any:
                return decoding.generate(
                    self.module,
                    params,
                    batch,
                    max_length=self.output_length,
                    method=method,
                    rng=key,
                    eos_id=self.tokenizer.eos_id,
                    **options,
                )

            self._compiled[signature] = jax.jit(run, out_shardings=self._replicated)
        with jax.set_mesh(self.mesh):
            return self._compiled[signature](self.params, batch, rng)

    def _spell(
        self, bucket: Bucket, ids: list[list[int]], result: Any
    ) -> Iterator[Generation]:
        tokens = np.asarray(result.tokens)
        scores = np.asarray(jnp.asarray(result.scores))
        tokens = tokens.reshape(self.batch_size, -1, tokens.shape[-1])
        scores = scores.reshape(self.batch_size, -1)
        for row, index in enumerate(bucket.indices):
            lengths = [self._length(sequence) for sequence in tokens[row]]
            texts = tuple(
                self.tokenizer.decode(sequence[:length].tolist())
                for sequence, length in zip(tokens[row], lengths, strict=True)
            )
            yield Generation(
                index,
                texts,
                tuple(float(score) for score in scores[row]),
                tuple(lengths),
                max(0, len(ids[index]) - self.input_length),
            )

    def _length(self, sequence: np.ndarray) -> int:
        ends = np.flatnonzero(sequence == self.tokenizer.eos_id)
        return int(ends[0]) + 1 if ends.size else int(len(sequence))
