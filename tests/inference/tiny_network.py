"""A network of one layer, whose answers differ from prompt to prompt."""

import jax
import jax.numpy as jnp

from specialize.student.network.transformer import T5Config, Transformer


def make_network(vocab_size, *, scale=3.0, **more):
    """The network and its weights, `scale` times those of an initialisation.

    A random model at initialisation says nearly the same always.
    """
    config = T5Config(
        vocab_size=vocab_size,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=32,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
        **more,
    )
    module = Transformer(config)
    ones = jnp.ones((1, 4), jnp.int32)
    params = module.init(jax.random.key(1), ones, ones, ones, enable_dropout=False)
    return module, jax.tree.map(lambda x: scale * x, params["params"])
