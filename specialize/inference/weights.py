"""Loads a student's weights, from any checkpoint, onto a mesh for inference."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from specialize import config, run_folder, sharding
from specialize.checkpoints import integrity, step_folder
from specialize.checkpoints.loading import check_fits, load_opened, open_for
from specialize.checkpoints.source import Source
from specialize.corpus.vocabulary import Vocabulary, read_vocabulary
from specialize.digests import value_digest
from specialize.inference.engine import Engine
from specialize.inference.spec import DecodingSpec


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights on a mesh.

    Attributes:
        params: the tree, sharded by the logical rules.
        mesh: its devices.
        step: number of optimizer steps that made it, if the path says.
    """

    params: Any
    mesh: Mesh
    step: int | None


def load_student(
    model: Any,
    checkpoint: str,
    mesh: Mesh | Mapping[str, int] | str | None = None,
) -> Loaded:
    """Restores weights, shard by shard, with the mesh they are on.

    Args:
        model: the student; its network says which tensors are needed.
        checkpoint: in any layout that `checkpoints.load_params` reads.
        mesh: the device mesh, as `sharding.read_mesh` takes it.

    Raises:
        InputError: the checkpoint is missing or does not fit the network, or the mesh
            is invalid.
    """
    mesh = sharding.read_mesh(mesh)
    abstract = abstract_weights(model, mesh)
    opened = open_for(checkpoint, abstract)
    params = load_opened(opened, abstract)
    return Loaded(params, mesh, _step(checkpoint, opened.path))


def check_fit(model: Any, opened: Iterable[Source], mesh: Any = None) -> None:
    """Refuses checkpoints that do not fit a student, before hours of work with others.

    No weight is read.

    Args:
        model: the student.
        opened: the checkpoints.
        mesh: as for `load_student`.

    Raises:
        InputError: a checkpoint does not fit the network, or the mesh is invalid.
    """
    abstract = abstract_weights(model, sharding.read_mesh(mesh))
    for one in opened:
        check_fits(one, abstract)


def abstract_weights(model: Any, mesh: Mesh) -> Any:
    """The weights of a model as `jax.ShapeDtypeStruct`s, sharded over a mesh.

    Its devices need not exist.
    """
    shapes = {"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 8)}
    types = dict.fromkeys(shapes, jnp.int32)
    variables = jax.eval_shape(
        lambda key: model.get_initial_variables(key, shapes, types), jax.random.key(0)
    )
    abstract, axes = variables["params"], variables["params_axes"]
    rules = sharding.fit_rules(mesh, abstract, axes, sharding.DEFAULT_RULES)
    places = sharding.state_shardings(mesh, abstract, axes, rules)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        abstract,
        places,
    )


def load_engine(
    model: Any,
    checkpoint: str,
    decoding: DecodingSpec,
    *,
    vocabulary_path: str | os.PathLike[str] | None = None,
    mesh: Mesh | Mapping[str, int] | str | None = None,
) -> tuple[Engine, Vocabulary]:
    """An engine that decodes with a checkpoint, and its vocabulary.

    Args:
        model: the student.
        checkpoint: as for `load_student`.
        decoding: how texts are generated.
        vocabulary_path: SentencePiece model of the checkpoint, or "byt5". None: the
            environment variable SPECIALIZE_VOCABULARY.
        mesh: as for `load_student`.

    Raises:
        InputError: the vocabulary is missing or does not fit the network, or as for
            `load_student`.
    """
    vocabulary = read_vocabulary(
        config.place(vocabulary_path, "VOCABULARY_PATH", "VOCABULARY"),
        network=model.module.config,
    )
    student = load_student(model, checkpoint, mesh)
    engine = Engine(model.module, student.params, vocabulary, student.mesh, decoding)
    return engine, vocabulary


def decoding_settings(engine: Engine, vocabulary: Vocabulary) -> dict[str, Any]:
    """Everything but the prompts that an engine's texts depend on, as JSON values.

    Whoever reuses texts compares these. The mesh is not among them: on another one
    sums are rounded in another order, which the same weights and network permit.
    """
    return {
        "weights": weights_digest(engine.params),
        "network": engine.module.config.identity(),
        "vocabulary": vocabulary.sha256,
        **engine.decoding.to_json(),
    }


def prompts_digest(prompts: Sequence[str]) -> str:
    """The digest of prompts in their order, for the settings of decoded texts."""
    return value_digest(list(prompts))


def _step(*names: str) -> int | None:
    """The steps of a checkpoint, as the names of its folders say."""
    for name in names:
        folder = name.removesuffix(run_folder.AVERAGE).rstrip("/")
        folder = folder.removesuffix(f"/{step_folder.STATE}")
        if named := re.search(r"(?:checkpoints/|checkpoint_)(\d+)$", folder):
            return int(named.group(1))
    return None


def weights_digest(params: Any) -> str:
    """A digest of a tree of weights, which changes with every change of one weight.

    It is made of the checksums by which a checkpoint is verified (`integrity`), with
    name, type and shape of each array. They are computed on the devices and are the
    same for every mesh and number of processes.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    described = {
        name: [str(leaves[name].dtype), list(leaves[name].shape), found]
        for name, found in integrity.checksums(leaves).items()
    }
    return value_digest(described)[:16]
