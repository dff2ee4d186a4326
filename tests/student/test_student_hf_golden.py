"""Against what Hugging Face computed once (tests/golden/make_hf_golden.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from flax.traverse_util import unflatten_dict

from specialize.checkpoints import names
from specialize.student.decoding import decoding
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.network.transformer import T5Config, Transformer

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "hf_t5.npz"


@pytest.fixture(scope="module", params=sorted(reference_t5.FAMILIES))
def golden(request):
    """(configuration, parameters, what was computed) of one family."""
    with np.load(GOLDEN) as file:
        arrays = {
            name.removeprefix(f"{request.param}/"): file[name]
            for name in file.files
            if name.startswith(f"{request.param}/")
        }
    params = {}
    for name in [name for name in arrays if name.startswith("weights/")]:
        ours, flipped = names.from_hf(
            name.removeprefix("weights/"), table_per_layer=request.param == "umt5"
        )
        value = arrays.pop(name)
        params[ours] = jnp.asarray(value.T if flipped else value)
    config = T5Config(
        vocab_size=96,
        emb_dim=16,
        num_heads=3,
        head_dim=6,
        mlp_dim=24,
        num_encoder_layers=2,
        num_decoder_layers=1,
        **reference_t5.FAMILIES[request.param],
    )
    return config, unflatten_dict(params, sep="/"), arrays


def test_states_and_logits_err_at_most_twice_as_much_as_hugging_faces(golden):
    config, params, arrays = golden
    x, t = arrays["inputs"], arrays["targets"]
    y = reference_t5.shift_right(t)
    module = Transformer(config)

    def run(params, x, y, t):
        encoded = module.apply(
            {"params": params}, x, enable_dropout=False, method="encode"
        )
        return encoded, module.apply(
            {"params": params}, encoded, x, y, t, enable_dropout=False, method="decode"
        )

    encoded, logits = jax.tree.map(np.asarray, jax.jit(run)(params, x, y, t))
    reference = reference_t5.Reference(config, jax.tree.map(np.asarray, params))
    errors = np.zeros((2, 2))  # encoder, decoder; ours, theirs
    for row in range(len(x)):
        at, to = np.flatnonzero(x[row]), np.flatnonzero(t[row])
        hidden = reference.encode(x[row, at], at)
        exact = reference.decode(hidden, y[row, to], to)
        found = np.array(
            [
                [
                    np.abs(mine[row, at] - hidden).max()
                    for mine in (encoded, arrays["encoded"])
                ],
                [
                    np.abs(mine[row, to] - exact).max()
                    for mine in (logits, arrays["logits"])
                ],
            ]
        )
        errors = np.maximum(errors, found)
    assert (errors[:, 1] > 0).all()
    assert (errors[:, 0] <= 2 * errors[:, 1]).all()


@pytest.mark.parametrize(
    ("which", "options"),
    [
        ("greedy", {}),
        ("greedy_eos", {}),
        ("beam", dict(method="beam", num_beams=4)),
        ("beam_early", dict(method="beam", num_beams=4, early_stopping=True)),
    ],
)
def test_generations_are_token_for_token_hugging_faces(golden, which, options):
    config, params, arrays = golden
    eos_id = 1
    if which != "greedy":
        eos_id = int(arrays["eos_id"])
        assert (arrays[which] == 0).any()
    spec = GenerationSpec(**options)
    module = Transformer(config)
    found = jax.jit(
        lambda params, x: decoding.generate(
            module, params, x, spec, max_length=64, eos_id=eos_id
        )
    )(params, arrays["inputs"])
    np.testing.assert_array_equal(found.tokens, arrays[which])
