"""T5X train states of tiny networks, made and stored by T5X."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from flax.core import freeze, unfreeze
from flax.traverse_util import flatten_dict
from t5x import adafactor, checkpoints, models, optimizers, partitioning, utils
from t5x.examples.scalable_t5 import network as scalable
from t5x.examples.t5 import network as minimal

from specialize.checkpoints import names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.checkpoints.lazy_tensors import from_array
from specialize.student.network.architecture import T5Config

SIZES = dict(
    vocab_size=256,
    dtype="float32",
    emb_dim=24,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=4,
    mlp_dim=40,
    dropout_rate=0.0,
)
UNTIED = dict(mlp_activations=("gelu", "linear"), logits_via_embedding=False)
TIED = dict(mlp_activations=("relu",), logits_via_embedding=True)

NETWORKS = {
    "t5_1_1": lambda: minimal.Transformer(minimal.T5Config(**SIZES, **UNTIED)),
    "t5_1_0": lambda: minimal.Transformer(minimal.T5Config(**SIZES, **TIED)),
    "scanned": lambda: scalable.Transformer(
        scalable.T5Config(**SIZES, **UNTIED, scan_layers=True)
    ),
    "scalable": lambda: scalable.Transformer(
        scalable.T5Config(**SIZES, **UNTIED, scan_layers=False)
    ),
}
OPTIMIZERS = {
    "adamw": lambda: optimizers.adamw(learning_rate=1e-3),
    "adafactor": lambda: adafactor.Adafactor(
        decay_rate=0.8,
        step_offset=0,
        logical_factor_rules=adafactor.standard_logical_factor_rules(),
    ),
}


def initializer(network: str, optimizer: str, seed: int = 0):
    """T5X's initialiser of a train state, its partitioner, and a state at step 7."""
    vocabulary = seqio.PassThroughVocabulary(256)
    model = models.EncoderDecoderModel(
        NETWORKS[network](),
        vocabulary,
        vocabulary,
        optimizer_def=OPTIMIZERS[optimizer](),
    )
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    made = utils.TrainStateInitializer(
        model.optimizer_def,
        model.get_initial_variables,
        {name: (2, 8) for name in names},
        partitioner,
    )
    state = made.from_scratch(jax.random.PRNGKey(seed)).replace_step(7)
    return made, partitioner, _with_one_table(state)


def _with_one_table(state):
    """T5 shares its relative-position table; scalable_t5 keeps one a layer."""
    params = jax.tree.map(np.array, unfreeze(state.params))
    for stack in ("encoder", "decoder"):
        inside = params[stack].get(stack)
        if inside is not None:
            table = inside["relpos_bias"]["rel_embedding"]
            table[:] = table[:, :1]
        layers = [v for k, v in params[stack].items() if k.startswith("layers_")]
        for layer in layers:
            if "relpos_bias" in layer:
                layer["relpos_bias"] = layers[0]["relpos_bias"]
    return state.replace_params(freeze(jax.tree.map(jnp.asarray, params)))


def random_student(folder, vocabulary) -> pathlib.Path:
    """A random student of the miniature's size as a T5X checkpoint, converted."""
    config = T5Config(
        vocab_size=640,
        emb_dim=128,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=32,
        mlp_dim=256,
        mlp_activations=("gelu", "linear"),
    )
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in names.shapes(config).items():
        scale = 1.0 if len(shape) == 1 or "embed" in name else shape[0] ** -0.5
        values = rng.standard_normal(shape, np.float32) * np.float32(scale)
        tensors[name] = from_array(
            np.ones(shape, np.float32) if len(shape) == 1 else values
        )
    (folder / "hf").mkdir()
    huggingface.write_weights(folder / "hf", tensors)
    huggingface_companions.write_settings(folder / "hf", config, "float32")
    convert(
        str(folder / "hf"), str(folder / "t5x"), to="t5x", vocabulary=str(vocabulary)
    )
    return folder / "t5x" / "checkpoint_0"


def flat(state) -> dict[str, np.ndarray]:
    """Parameters of a train state by name."""
    tree = flatten_dict(unfreeze(state.params))
    return {"/".join(key): np.asarray(value) for key, value in tree.items()}


def save(kind: str, folder, made, partitioner, state) -> None:
    """Has T5X store a state: "legacy" (msgpack and zarr) or "orbax"."""
    shape = made.global_train_state_shape
    if kind == "legacy":
        checkpoints.Checkpointer(shape, partitioner, str(folder)).save(state)
        return
    folder.mkdir(parents=True, exist_ok=True)
    store = checkpoints.OrbaxCheckpointManagerInterface(str(folder), shape, partitioner)
    store.save(state)
    store.wait_until_finished()
    store.close()


def restore(kind: str, path, made, partitioner, **options):
    """Has T5X restore the state stored at `path`."""
    shape, parent = made.global_train_state_shape, str(path.parent)
    if kind == "legacy":
        store = checkpoints.Checkpointer(shape, partitioner, parent)
    else:
        store = checkpoints.OrbaxCheckpointManagerInterface(parent, shape, partitioner)
    return store.restore(path=str(path), **options)
