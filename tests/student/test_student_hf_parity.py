"""Against Hugging Face's T5 in torch, live; `hf_golden` keeps it in the ordinary suite.

Needs an environment with torch, which `make test-torch` makes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import hf_t5  # noqa: E402

from specialize.student.decoding import decoding  # noqa: E402
from specialize.student.decoding.spec import GenerationSpec  # noqa: E402
from specialize.student.network.transformer import T5Config, Transformer  # noqa: E402

FAMILIES = sorted(reference_t5.FAMILIES)
PADDING = ["none", "right", "left", "both", "holes"]


def config(family: str, **changes) -> T5Config:
    sizes = dict(
        vocab_size=512,
        emb_dim=64,
        num_heads=4,
        head_dim=16,
        mlp_dim=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    return T5Config(**(sizes | reference_t5.FAMILIES[family] | changes))


@st.composite
def cases(draw):
    return (
        config(
            draw(st.sampled_from(FAMILIES)),
            vocab_size=draw(st.sampled_from([100, 512, 3001])),
            emb_dim=draw(st.sampled_from([32, 96, 256])),
            num_heads=draw(st.sampled_from([1, 3, 6])),
            head_dim=draw(st.sampled_from([8, 20, 64])),
            mlp_dim=draw(st.sampled_from([40, 512])),
            num_encoder_layers=draw(st.integers(1, 4)),
            num_decoder_layers=draw(st.integers(1, 4)),
            # Whatever the family: UL2's gate is published with a tied head.
            logits_via_embedding=draw(st.booleans()),
        ),
        draw(st.sampled_from(PADDING)),
        draw(st.integers(0, 2**16)),
    )


def real_positions(rng, kind, shape):
    real = np.ones(shape, bool)
    length = shape[1]
    for row in real:
        cut = int(rng.integers(0, length))
        if kind in ("right", "both"):
            row[length - cut // 2 - 1 :] = False
        if kind in ("left", "both"):
            row[: cut // 2] = False
        if kind == "holes":
            row[rng.permutation(length)[:cut]] = False
        if not row.any():
            row[length // 2] = True
    return real


def reordered(params, order):
    """The same network with its features (axes of size D) in another order."""

    def change(path, leaf):
        module, name = path[-2], path[-1]
        if name == "rel_embedding":
            return leaf
        if name == "scale":
            return leaf[order]
        # Kernels out of the features, but for those back into them.
        inward = name == "kernel" and module not in ("out", "wo")
        return leaf[order] if inward else leaf[:, order]

    return unflatten_dict(
        {path: change(path, leaf) for path, leaf in flatten_dict(params).items()}
    )


def outputs(module):
    def run(params, x, y, t):
        encoded = module.apply(
            {"params": params}, x, enable_dropout=False, method="encode"
        )
        return encoded, module.apply(
            {"params": params}, encoded, x, y, t, enable_dropout=False, method="decode"
        )

    return jax.jit(run)


def products_error(size):
    """Largest error of one product of matrices, here and in torch; `size` summands.

    Torch's library splits long sums, XLA's on a CPU does not: from some 190 summands on
    a bare product errs up to 2.5 times as much, whatever network it stands in.
    """
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, 256, size), np.float32)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    found = np.asarray(jax.jit(jnp.matmul)(a, b.T)), torch.tensor(a) @ torch.tensor(b.T)
    return tuple(np.abs(np.asarray(product) - exact).max() for product in found)


@settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cases())
def test_our_error_is_at_most_twice_that_of_hugging_face(case, tmp_path_factory):
    """Largest and root-mean-square errors, against float64.

    The largest of some 40,000 errors is chance: rounding is drawn four times, by sums
    over the same features in other orders, on both sides, and averaged. It may also be
    as much larger as the two libraries' bare products differ; the mean square may not.
    """
    cfg, padding, seed = case
    params = reference_t5.random_params(cfg, seed)
    rng = np.random.default_rng(seed)
    x = rng.integers(1, cfg.vocab_size, (3, 150))
    x = x * real_positions(rng, padding, x.shape)
    t = rng.integers(1, cfg.vocab_size, (3, 40))
    t = t * real_positions(rng, "left" if padding == "left" else "right", t.shape)
    y = reference_t5.shift_right(t)
    reference = reference_t5.Reference(cfg, params)
    exact = []
    for row in range(len(x)):
        at, to = np.flatnonzero(x[row]), np.flatnonzero(t[row])
        hidden = reference.encode(x[row, at], at)
        logits = reference.decode(hidden, y[row, to], to)
        exact.append(((at, hidden), (to, logits)))

    def errors(found, order):
        """Largest and root-mean-square error of encoder and decoder."""
        result = []
        for side in (0, 1):
            error = np.concatenate(
                [
                    found[side][row, at] - (value if side else value[:, order])
                    for row, ((at, value)) in enumerate(sides[side] for sides in exact)
                ]
            )
            result.append((np.abs(error).max(), np.sqrt(np.mean(error**2))))
        return result

    run = outputs(Transformer(cfg))
    ours, theirs = [], []
    for draw in range(4):
        order = rng.permutation(cfg.emb_dim) if draw else np.arange(cfg.emb_dim)
        same = reordered(params, order)
        ours.append(errors(jax.tree.map(np.asarray, run(same, x, y, t)), order))
        model = hf_t5.build(cfg, same, tmp_path_factory.mktemp("hf"))
        theirs.append(errors(hf_t5.run(model, x, t), order))
    (our_max, our_rms), (their_max, their_rms) = (
        np.mean(each, axis=0).T for each in (ours, theirs)
    )
    assert (our_rms <= 2 * their_rms).all()
    mine, torchs = products_error(max(cfg.emb_dim, cfg.mlp_dim))
    assert (our_max <= 2 * their_max * max(1.0, mine / torchs)).all()


def questions(shared_data, count):
    """GSM8K questions as ids of the real vocabulary, as long as they really are."""
    import json

    import sentencepiece

    model = next(shared_data.rglob("*piece*.model"))
    pieces = sentencepiece.SentencePieceProcessor(str(model))
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()[:count]
    rows = [pieces.encode(json.loads(line)["question"]) + [1] for line in lines]
    x = np.zeros((count, max(map(len, rows))), np.int32)
    for row, ids in zip(x, rows, strict=True):
        row[: len(ids)] = ids
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_beam_4_generate_the_same_64_tokens_for_64_real_questions(
    family, shared_data, tmp_path
):
    cfg = config(family, vocab_size=32128)
    params = reference_t5.random_params(cfg, 1)
    x = questions(shared_data, 64)
    module = Transformer(cfg)
    theirs = hf_t5.build(cfg, params, tmp_path)

    def ours(eos_id=1, **options):
        spec = GenerationSpec(**options)
        run = jax.jit(
            lambda p, x: decoding.generate(
                module, p, x, spec, max_length=64, eos_id=eos_id
            )
        )
        return np.asarray(run(params, x).tokens)

    endless = hf_t5.generate(theirs, x, 64)
    np.testing.assert_array_equal(ours(), endless)
    # Random weights hardly ever say EOS: declare ids they do say, early and late.
    ids, counts = np.unique(endless[:, 8:40], return_counts=True)
    eos_id = int(ids[np.argmax(counts)])
    found = ours(eos_id=eos_id)
    ends = (found == 0).any(axis=1)
    assert 0 < ends.sum()
    np.testing.assert_array_equal(
        found, hf_t5.generate(theirs, x, 64, eos_token_id=eos_id)
    )
    for options in (
        {},
        dict(early_stopping=True, length_penalty=0.6),
        dict(early_stopping="never", length_penalty=2.0),
    ):
        np.testing.assert_array_equal(
            ours(method="beam", num_beams=4, eos_id=eos_id, **options),
            hf_t5.generate(theirs, x, 64, num_beams=4, eos_token_id=eos_id, **options),
        )
