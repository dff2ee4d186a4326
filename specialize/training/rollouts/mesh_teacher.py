"""A T5 checkpoint on the mesh as the teacher of the student's own texts.

It has the student's vocabulary, so nothing is aligned: one forward pass over a text
gives its distribution at every position, of which the K likeliest ids are kept, and the
id that the student wrote. Logits are computed for a few positions at a time.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from specialize import processes, sharding
from specialize.checkpoints.opening import name_of, open_checkpoint, vocabulary_of
from specialize.corpus.vocabulary import Vocabulary
from specialize.digests import vocabulary_digest
from specialize.errors import InputError
from specialize.inference.weights import load_student
from specialize.student.model import Student
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer, head_kernel
from specialize.training.rollouts.spec import Ends
from specialize.training.rollouts.windows import Rows, UnfinishedError
from specialize.training.rollouts.writing import Group, Texts

# Positions whose logits exist at the same time.
_CHUNK = 1024


class LoadedTeacher(NamedTuple):
    """A teacher on the mesh.

    Attributes:
        module: its network.
        params: its weights, in the type of the activations.
    """

    module: Transformer
    params: Any


def load_teacher(
    checkpoint: str,
    vocabulary: Vocabulary,
    mesh: Mesh,
    dtype: Any,
    rows: int | None = None,
) -> LoadedTeacher:
    """Loads a teacher of the student's vocabulary.

    Args:
        checkpoint: in any layout that `convert` reads.
        vocabulary: the student's vocabulary.
        mesh: the devices of the run.
        dtype: type of weights and activations.
        rows: number of vocabulary rows that it must have. None: any; those after the
            pieces are of no text.

    Raises:
        InputError: there is no such checkpoint, it has another vocabulary, or another
            number of rows.
    """
    together = processes.of_all(mesh.devices.flat)
    opened = open_checkpoint(checkpoint, together=together)
    _check_vocabulary(checkpoint, opened, vocabulary)
    if rows is not None:
        check_rows(checkpoint, opened.config, rows)
    module = Transformer(reading(opened.config, dtype))
    params = load_student(Student(module), name_of(opened, checkpoint), mesh).params
    kind = jnp.dtype(dtype)
    if kind != jnp.float32:
        cast = jax.jit(
            lambda tree: jax.tree.map(lambda x: x.astype(kind), tree), donate_argnums=0
        )
        params = cast(params)
    return LoadedTeacher(module, params)


def reading(network: T5Config, dtype: Any) -> T5Config:
    """The network of a teacher that only reads, with activations of a type."""
    return dataclasses.replace(
        network, dtype=dtype, dropout_rate=0.0, scan_layers=False
    )


def check_rows(checkpoint: str, network: T5Config, rows: int) -> None:
    """Checks that whole distributions of a teacher and a student can be compared.

    Args:
        checkpoint: name of the teacher, for the message.
        network: its network.
        rows: number of the student's vocabulary rows.

    Raises:
        InputError: the teacher has another number of rows.
    """
    if network.vocab_size != rows:
        raise InputError(
            f"the teacher {checkpoint} has {network.vocab_size:,} vocabulary rows, the "
            f"student has {rows:,}; whole distributions are compared row by row. Set "
            "ROLLOUT_WHOLE_VOCABULARY = False, or name a teacher with as many."
        )


class MeshTeacher:
    """What a teacher on the mesh says about given texts.

    Args:
        loaded: the teacher.
        mesh: the devices of the run.
        k: number of entries of a row.
        rows: number of the student's vocabulary rows. What the teacher says of later
            ones belongs to the tail.
    """

    def __init__(self, loaded: LoadedTeacher, mesh: Mesh, k: int, rows: int) -> None:
        self._module, self._params = loaded
        self._mesh, self._k = mesh, k
        self._rows = min(rows, self._module.config.vocab_size)
        self._kept = min(k, self._rows)
        whole = sharding.replicated(mesh)
        self._score = jax.jit(self._likeliest, out_shardings=whole)

    def read(self, texts: Texts, ends: Ends) -> Rows:
        """See `making.Teacher.read`."""
        found = []
        for group in texts.groups:
            if ends():
                raise UnfinishedError
            found.append(self._read(group))
        rows: list[Any] = [None] * len(texts.ids)
        for group, arrays in zip(texts.groups, found, strict=True):
            host = [np.asarray(array) for array in arrays]
            for row, example in enumerate(group.examples):
                ids = texts.ids[example]
                likeliest, logprobs, own = (array[row, : len(ids)] for array in host)
                rows[example] = teacher_rows(ids, likeliest, logprobs, own, self._k)
        return Rows(
            *(np.concatenate(column) for column in zip(*rows, strict=True)),
            scored=np.asarray([len(ids) for ids in texts.ids], np.int64),
        )

    def _read(self, group: Group) -> tuple[jax.Array, ...]:
        """Likeliest ids [B L K], their log-probabilities, and those of the text [B L].

        Returns before the devices have them.
        """
        place = sharding.batch_sharding(self._mesh)
        inputs = jax.make_array_from_callback(
            group.inputs.shape, place, lambda where: group.inputs[where]
        )
        with sharding.activate(self._mesh):
            found = self._score(self._params, inputs, group.tokens)
        if sharding.simulated(self._mesh):
            jax.block_until_ready(found)
        return found

    def _likeliest(
        self, params: Any, inputs: Int[Array, "B S"], tokens: Int[Array, "B L"]
    ) -> tuple[Int[Array, "B L K"], Float[Array, "B L K"], Float[Array, "B L"]]:
        place = sharding.batch_sharding(self._mesh)
        tokens = jax.lax.with_sharding_constraint(tokens, place)
        before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))  # starts with the padding id
        hidden: Any = self._module.apply(
            {"params": params},
            *(inputs, before, tokens),
            enable_dropout=False,
            return_hidden=True,
        )
        head = head_kernel(params, self._module.config)
        flat, own = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
        number = len(own)
        chunk = min(_CHUNK, number)
        more = -number % chunk
        flat = jnp.pad(flat, ((0, more), (0, 0))).reshape(-1, chunk, flat.shape[-1])
        own = jnp.pad(own, (0, more)).reshape(-1, chunk)

        def of_chunk(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            states, ids = part
            logits = jnp.matmul(states, head, preferred_element_type=jnp.float32)
            logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
            values, likeliest = jax.lax.top_k(logprobs[:, : self._rows], self._kept)
            mine = jnp.take_along_axis(logprobs, ids[:, None], axis=-1)[:, 0]
            return likeliest, values, mine

        likeliest, values, mine = jax.lax.map(of_chunk, (flat, own))
        shape = (*tokens.shape, self._kept)
        return (
            likeliest.reshape(-1, self._kept)[:number].reshape(shape),
            values.reshape(-1, self._kept)[:number].reshape(shape),
            mine.reshape(-1)[:number].reshape(tokens.shape),
        )


def teacher_rows(
    own: Int[np.ndarray, " T"],
    ids: Int[np.ndarray, "T K"],
    logprobs: Float[np.ndarray, "T K"],
    own_logprobs: Float[np.ndarray, " T"],
    k: int,
) -> tuple[
    Int[np.ndarray, "T {k}"], Float[np.ndarray, "T {k}"], Float[np.ndarray, " T"]
]:
    """Rows of K entries (ids, probabilities, tail) from the likeliest ids.

    The id of the text replaces the least likely entry if it is not among them, as in a
    corpus. The probability of an id lies in [row(id), row(id) + tail].
    """
    found = np.zeros((len(own), k), np.int32)
    probs = np.zeros((len(own), k), np.float64)
    width = min(k, ids.shape[1])
    found[:, :width] = ids[:, :width]
    probs[:, :width] = np.exp(logprobs[:, :width].astype(np.float64))
    missing = (found[:, :width] != own[:, None]).all(1)
    found[missing, width - 1] = own[missing]
    probs[missing, width - 1] = np.exp(own_logprobs[missing].astype(np.float64))
    total = probs.sum(1)
    probs /= np.maximum(total, 1.0)[:, None]  # rounding may exceed 1 a little
    tail = np.maximum(1.0 - total, 0.0)
    return found, probs.astype(np.float32), tail.astype(np.float32)


def _check_vocabulary(checkpoint: str, opened: Any, vocabulary: Vocabulary) -> None:
    rows = opened.config.vocab_size
    least = vocabulary.size - vocabulary.extra_ids
    if rows < least:
        raise InputError(
            f"the teacher {checkpoint} has {rows:,} vocabulary rows, fewer than the "
            f"student's {least:,} pieces. A teacher on the mesh needs the student's "
            "vocabulary; name a server for another one (ROLLOUT_SERVER)."
        )
    named = vocabulary_of(checkpoint, opened.companions)
    if named is not None and vocabulary_digest(named) != vocabulary.sha256:
        raise InputError(
            f"the teacher {checkpoint} has the vocabulary {named}, which is not the "
            f"student's ({vocabulary.path}). A teacher on the mesh needs the student's "
            "vocabulary; name a server for another one (ROLLOUT_SERVER)."
        )
