"""Baseline: T5X's own network, model and training step at one of our bench shapes.

    SPECIALIZE_T5X_PYTHON=/path/to/python specialize bench train --peers

T5X trains on the target ids (it has no teacher rows), so its loss does less than ours.
Everything is T5X's: `examples.t5.network`, `EncoderDecoderModel`, its AdamW and
`trainer.train_with_lr`, jitted with the state donated, on the packed batch that our
own case gets, with the same dropout rate.
"""

import platform
import sys
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import models, optimizers, trainer
from t5x.examples.t5 import network
from t5x.train_state import FlaxOptimTrainState

from specialize.cost.bench import protocol
from specialize.cost.bench.batch import packed_batch
from specialize.cost.bench.shapes import shape_named


def build(shape):
    config = network.T5Config(
        vocab_size=shape.vocabulary,
        dtype=jnp.dtype(shape.dtype),
        emb_dim=shape.emb_dim,
        num_heads=shape.num_heads,
        head_dim=shape.head_dim,
        num_encoder_layers=shape.layers,
        num_decoder_layers=shape.layers,
        mlp_dim=shape.mlp_dim,
        mlp_activations=("gelu", "linear"),
        dropout_rate=shape.dropout,
        logits_via_embedding=False,
    )
    vocabulary = seqio.PassThroughVocabulary(shape.vocabulary)
    model = models.EncoderDecoderModel(
        network.Transformer(config),
        vocabulary,
        vocabulary,
        optimizers.adamw(1e-4),
    )
    batch = {
        name: jnp.asarray(values)
        for name, values in packed_batch(shape).items()
        if "teacher" not in name and "format" not in name
    }
    shapes = {name: values.shape for name, values in batch.items()}
    types = {name: jnp.int32 for name in batch}
    variables = jax.jit(lambda key: model.get_initial_variables(key, shapes, types))(
        jax.random.PRNGKey(0)
    )
    state = FlaxOptimTrainState.create(model.optimizer_def, variables)
    del variables

    def step(state, batch, key):
        return trainer.train_with_lr(
            state, batch, jnp.float32(1e-4), key, model, num_microbatches=None
        )

    key = jax.random.PRNGKey(1)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, key).compile()
    held = [state]
    del state

    def run():
        held[0], metrics = compiled(held[0], batch, jax.random.fold_in(key, 0))
        jax.block_until_ready(metrics)

    names = ("jax", "jaxlib", "flax", "optax", "t5x")
    sides = ("encoder_input_tokens", "decoder_target_tokens")
    return protocol.Case(
        run,
        {
            "versions": {"python": platform.python_version()}
            | {name: metadata.version(name) for name in names},
            "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
            "useful_tokens": sum(int(np.sum(batch[side] > 0)) for side in sides),
            "positions": shape.positions,
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        },
    )


if __name__ == "__main__":
    protocol.serve(lambda: build(shape_named(sys.argv[1])))
