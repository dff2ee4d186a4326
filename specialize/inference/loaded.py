"""A checkpoint as one object for a notebook: texts in, texts and losses out."""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from specialize import processes, sharding
from specialize.checkpoints.opening import (
    check_eos,
    name_of,
    open_checkpoint,
    vocabulary_of,
)
from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.storage.stored_record import normalise_rows
from specialize.corpus.vocabulary import Vocabulary, read_vocabulary
from specialize.errors import InputError
from specialize.inference.engine import Engine
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import load_student
from specialize.student.loss import divergences, logit_statistics
from specialize.student.loss.spec import LossConfig
from specialize.student.loss.teacher_rows import make_rows
from specialize.student.model import Student
from specialize.student.network.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class TopK:
    """The student's most probable tokens at every position of one text.

    Attributes:
        ids: ids [L K], most probable first.
        logprobs: their log-probabilities [L K], in nats, before any temperature.
    """

    ids: Int[np.ndarray, "L K"]
    logprobs: Float[np.ndarray, "L K"]


@dataclasses.dataclass(frozen=True)
class Generated(Sequence[str]):
    r"""Texts, in the order of their prompts; indexing and iterating give the texts.

    Attributes:
        texts: one per prompt, or `num_samples` per prompt, grouped by prompt.
        scores: log-probability of each text in nats, EOS included.
        num_tokens: decoded tokens of each text, EOS included.
        top_k: one `TopK` per text, EOS included, if `top_k` was asked for.

    Example:
        >>> found = specialize.load("runs/student").generate(["Q: a\nA:", "Q: b\nA:"])
        >>> [isinstance(text, str) for text in found], found.scores[0] <= 0
        ([True, True], True)
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    num_tokens: tuple[int, ...]
    top_k: tuple[TopK, ...] = ()

    def __getitem__(self, index: Any) -> Any:
        return self.texts[index]

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True)
class LoadedStudent:
    """A student with its weights and its vocabulary, as `load` returns it.

    Attributes:
        model: the student; `train` and `evaluate` take it.
        params: its weights, sharded over `mesh`.
        mesh: the devices.
        vocabulary: its vocabulary, of SentencePiece's pieces or of bytes.
        step: optimizer steps of its run, or None if the checkpoint does not say.

    Example:
        >>> specialize.load("runs/student").step
        2
    """

    model: Student
    params: Any
    mesh: Mesh
    vocabulary: Vocabulary
    step: int | None

    def generate(
        self,
        prompts: Sequence[str],
        decoding: DecodingSpec | None = None,
        *,
        top_k: int = 0,
    ) -> Generated:
        r"""Decodes prompts.

        Args:
            prompts: encoder texts.
            decoding: how texts are generated; None decodes greedily.
            top_k: number of the most probable tokens to return per position; 0: none.

        Returns:
            The texts with their scores.

        Raises:
            InputError: `prompts` is a single text, or `top_k` is negative.

        Example:
            >>> student = specialize.load("runs/student")
            >>> answers = student.generate(["Q: 1 + 1\nA:"], top_k=3)
            >>> len(answers), answers.top_k[0].ids.shape[1]
            (1, 3)
        """
        if isinstance(prompts, str):
            raise InputError(f"prompts is the text {prompts[:40]!r}; give a list.")
        if top_k < 0:
            raise InputError(f"top_k is {top_k}; give 0 (none) or more.")
        # A few prompts need no full batch; a batch must divide over the mesh.
        decoding = decoding or DecodingSpec()
        ways = sharding.batch_shards(self.mesh)
        rows = min(decoding.batch_size, max(len(prompts), 1))
        decoding = dataclasses.replace(decoding, batch_size=-(-rows // ways) * ways)
        engine = Engine(
            self.model.module, self.params, self.vocabulary, self.mesh, decoding
        )
        found = sorted(engine.generate(prompts), key=lambda one: one.index)
        texts = tuple(text for one in found for text in one.texts)
        likeliest: tuple[TopK, ...] = ()
        if top_k:
            pairs = [
                (self._encode(prompts[one.index])[-decoding.input_length :], ids)
                for one in found
                for ids in one.ids
            ]
            likeliest = tuple(self._top_k(pairs, decoding.batch_size, top_k))
        return Generated(
            texts,
            tuple(score for one in found for score in one.scores),
            tuple(number for one in found for number in one.num_tokens),
            likeliest,
        )

    def loss(
        self, records: Iterable[DistillRecord], *, batch_size: int = 8
    ) -> list[dict[str, Float[np.ndarray, " L"]]]:
        """The loss of every target token of every record, under every loss mode.

        Args:
            records: records of a corpus; each has L target tokens, EOS last.
            batch_size: number of records that are computed together.

        Returns:
            Per record: mode -> nats per target token [L]. The modes are those of
            `LOSS_MODE`, with the defaults of their parameters.

        Raises:
            InputError: a record holds ids that the student's vocabulary lacks.

        Example:
            >>> student = specialize.load("runs/student")
            >>> record = next(iter(specialize.Corpus("runs/corpus")))
            >>> losses = student.loss([record])[0]
            >>> losses["tail"].shape == record.target.ids.shape
            True
        """
        found: list[dict[str, Float[np.ndarray, " L"]]] = []
        for part in _parts(records, batch_size):
            end = self.vocabulary.eos_id
            pairs = [([*one.input_ids.tolist(), end], one.target.ids) for one in part]
            rows = self.model.module.config.vocab_size
            for record in part:
                largest = max(record.target.ids.max(), record.target.teacher_ids.max())
                if largest >= rows:
                    raise InputError(
                        f"record {record.id} holds the id {largest}, but the student "
                        f"has {rows} embedding rows. Load the student that the corpus "
                        "was built for."
                    )
            batch = _padded(pairs, batch_size)
            probs, tails = zip(
                *(
                    normalise_rows(record.target.teacher_logprobs, record.target.tail)
                    for record in part
                ),
                strict=True,
            )
            shape = batch["targets"].shape
            teacher_ids = [record.target.teacher_ids for record in part]
            values = _losses(
                self.model.module,
                self.params,
                batch,
                _stacked(teacher_ids, shape, np.int32),
                _stacked(probs, shape, np.float32),
                _stacked(tails, shape, np.float32),
            )
            host = {mode: np.asarray(value) for mode, value in values.items()}
            found += [
                {mode: value[row, : len(ids)] for mode, value in host.items()}
                for row, (_, ids) in enumerate(pairs)
            ]
        return found

    def _encode(self, text: str) -> list[int]:
        return [*self.vocabulary.encode(text), self.vocabulary.eos_id]

    def _top_k(
        self, pairs: Sequence[tuple[Sequence[int], Any]], batch_size: int, number: int
    ) -> Iterator[TopK]:
        for part in _parts(pairs, batch_size):
            batch = _padded(part, batch_size)
            ids, logprobs = _likeliest(self.model.module, self.params, batch, number)
            for row, (_, target) in enumerate(part):
                length = len(target)
                yield TopK(
                    np.asarray(ids[row, :length]), np.asarray(logprobs[row, :length])
                )


def load(
    checkpoint: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    mesh: Any = None,
    dtype: str = "float32",
) -> LoadedStudent:
    """Loads a student: weights, network and vocabulary.

    Args:
        checkpoint: the folder of a run (its newest checkpoint), one of its checkpoints,
            a Hugging Face folder or hub name, or a T5X checkpoint.
        vocabulary: the SentencePiece file, or "byt5". None takes the one that the run
            names or that is in the folder, or else the environment's
            SPECIALIZE_VOCABULARY.
        mesh: the devices, in any form that the macro MESH takes; None takes all.
        dtype: type of the activations: "float32" or "bfloat16".

    Returns:
        The student, ready for `generate` and `loss`.

    Raises:
        InputError: there is no such checkpoint, it is not a T5, or no vocabulary is
            known.

    Example:
        >>> student = specialize.load("runs/student")
        >>> student.model.module.config.emb_dim > 0
        True
    """
    name = os.fspath(checkpoint)
    mesh = sharding.read_mesh(mesh)
    opened = open_checkpoint(name, together=processes.of_all(mesh.devices.flat))
    path = _vocabulary_file(name, vocabulary, opened.companions)
    network = dataclasses.replace(
        opened.config, dtype=dtype, dropout_rate=0.0, scan_layers=False
    )
    student = Student(Transformer(network))
    loaded = load_student(student, name_of(opened, name), mesh)
    words = read_vocabulary(path, rows=network.vocab_size)
    check_eos(opened, words.path, words.special)
    return LoadedStudent(student, loaded.params, loaded.mesh, words, loaded.step)


def _vocabulary_file(
    checkpoint: str,
    given: str | os.PathLike[str] | None,
    companions: pathlib.Path | None,
) -> str | os.PathLike[str]:
    if given is not None:
        return given
    if (found := vocabulary_of(checkpoint, companions)) is not None:
        return found
    if variable := os.path.expanduser(os.environ.get("SPECIALIZE_VOCABULARY", "")):
        return variable
    raise InputError(
        f"no vocabulary is known for {checkpoint}. Name its SentencePiece file (or "
        "'byt5') with vocabulary=..., or in the environment as SPECIALIZE_VOCABULARY."
    )


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while part := list(itertools.islice(left, size)):
        yield part


def _padded(
    pairs: Sequence[tuple[Sequence[int], Any]], rows: int
) -> Mapping[str, Int[np.ndarray, "B L"]]:
    """Inputs and targets of B sequences; powers of two give few shapes to compile."""
    longest = [max(len(pair[side]) for pair in pairs) for side in (0, 1)]
    source, target = (1 << (max(number, 8) - 1).bit_length() for number in longest)
    batch = {
        "inputs": np.zeros((rows, source), np.int32),
        "targets": np.zeros((rows, target), np.int32),
    }
    for row, (inputs, targets) in enumerate(pairs):
        batch["inputs"][row, : len(inputs)] = inputs
        batch["targets"][row, : len(targets)] = targets
    return batch


def _stacked(
    arrays: Sequence[np.ndarray], shape: tuple[int, int], dtype: Any
) -> np.ndarray:
    found = np.zeros((*shape, *arrays[0].shape[1:]), dtype)
    for row, array in enumerate(arrays):
        found[row, : len(array)] = array
    return found


def _logits(module: Any, params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    targets = batch["targets"]
    before = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))  # starts with the padding id
    return module.apply(
        {"params": params}, batch["inputs"], before, targets, enable_dropout=False
    )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _likeliest(
    module: Any, params: Any, batch: Mapping[str, jax.Array], number: int
) -> tuple[jax.Array, jax.Array]:
    logits = _logits(module, params, batch).astype(jnp.float32)
    values, ids = jax.lax.top_k(jax.nn.log_softmax(logits, axis=-1), number)
    return ids, values


@functools.partial(jax.jit, static_argnums=(0,))
def _losses(
    module: Any,
    params: Any,
    batch: Mapping[str, jax.Array],
    ids: jax.Array,
    probs: jax.Array,
    tail: jax.Array,
) -> dict[str, jax.Array]:
    logits = _logits(module, params, batch).astype(jnp.float32)
    targets = batch["targets"]
    weights = (targets > 0).astype(jnp.float32)
    rows = make_rows(targets, ids, probs, tail, weights, None, jnp.dtype("float32"))
    statistics, _ = logit_statistics.summarise(
        logits.reshape(-1, logits.shape[-1]), rows, 1.0
    )
    return {
        mode: function(statistics, rows, LossConfig())[0].reshape(targets.shape)
        for mode, function in divergences.FUNCTIONS.items()
    }
