"""Attention in blocks of queries is attention: same values, same gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import packed_network
import pytest
import reference_t5

from specialize.student.attention import attention
from specialize.student.attention.relative_bias import RelativeBias, block_size
from specialize.student.network.transformer import T5Config

CONFIG = T5Config(
    vocab_size=61,
    emb_dim=16,
    num_heads=3,
    head_dim=6,
    mlp_dim=24,
    mlp_activations=("gelu", "linear"),
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
)
BLOCK, SOURCE, TARGET = 4, 12, 8


def network_of(config, params):
    """Logits and gradients on two examples a row, padding behind them, with dropout."""
    source, target = (
        packed_network.rows(
            np.repeat([[1] * 3 + [2] * (length - 4) + [0]], 2, axis=0),
            seed,
            config.vocab_size,
        )
        for length, seed in ((SOURCE, 0), (TARGET, 1))
    )
    return packed_network.logits_and_gradients(config, params, source, target)


def test_blocks_of_queries_change_no_logit_and_no_gradient():
    params = reference_t5.random_params(CONFIG, 0)
    whole = network_of(CONFIG, params)
    blocked = dataclasses.replace(CONFIG, attention_block=BLOCK, remat_policy="full")
    found = network_of(blocked, params)
    packed_network.assert_close(found, whole, 1e-4)
    for stack in ("encoder", "decoder"):
        table = found[1][stack]["relpos_bias"]["rel_embedding"]
        assert np.abs(table).max() > 0.1  # the bias does learn


@pytest.mark.parametrize("keys", [4, 12, 17])
def test_a_blocks_bias_is_its_rows_of_the_whole_bias(keys):
    module = RelativeBias(num_heads=3, bidirectional=True)
    made = functools.partial(module.init_with_output, jax.random.key(0))
    (whole, _), (diagonals, _) = made(12, keys), made(12, keys, BLOCK)
    assert diagonals.shape == (3, 12 + keys - 1)
    none = jnp.zeros((1, 12, 3, keys))
    by_query = attention._in_blocks(
        lambda queries, bias, mask: jnp.swapaxes(bias, 1, 2),
        BLOCK,
        none,
        diagonals,
        None,
    )
    np.testing.assert_array_equal(jnp.swapaxes(by_query, 1, 2), whole)


def test_a_length_without_a_good_divisor_attends_at_once():
    assert block_size(12, 0) == block_size(12, 12) == 12
    assert block_size(12, 8) == 6
    assert block_size(13, 8) == 13  # blocks of one query would only cost time
