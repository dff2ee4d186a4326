"""The network against float64 numpy; padding, packing, dropout, sharding, sizes."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specialize import sharding
from specialize.errors import InputError
from specialize.student import layers
from specialize.student.attention.relative_bias import RelativeBias, relative_buckets
from specialize.student.network.transformer import T5Config, Transformer, head_kernel

TINY = dict(
    vocab_size=61,
    emb_dim=16,
    num_heads=3,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dropout_rate=0.1,
)


# Where depth proves nothing: compiled in half the time.
FLAT = dict(num_encoder_layers=1, num_decoder_layers=1)


def tiny(family="t5_1_1", **changes) -> T5Config:
    return T5Config(**(TINY | reference_t5.FAMILIES[family] | changes))


@functools.lru_cache
def model(config: T5Config, seed: int = 0):
    return Transformer(config), reference_t5.random_params(config, seed)


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=("hidden",))
def forward(module, params, x, y, segments=(None, None), *, dropout=None, hidden=False):
    targets = jnp.concatenate([y[:, 1:], y[:, :1] * 0 + 1], axis=1)
    return module.apply(
        {"params": params},
        x,
        y,
        targets,
        *segments,
        enable_dropout=dropout is not None,
        return_hidden=hidden,
        rngs=None if dropout is None else {"dropout": dropout_key(dropout)},
    )


def dropout_key(seed):
    # A generator whose program is small: Threefry's takes seconds to compile.
    return jax.random.key(seed, impl="unsafe_rbg")


def random_rows(seed, rows=2, source=9, target=7, vocabulary=61):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, vocabulary, (rows, source)).astype(np.int32)
    y = rng.integers(1, vocabulary, (rows, target)).astype(np.int32)
    y[:, 0] = 0
    return jnp.asarray(x), jnp.asarray(y)


@st.composite
def cases(draw):
    family = draw(st.sampled_from(sorted(reference_t5.FAMILIES)))
    sizes = dict(
        vocab_size=draw(st.integers(20, 200)),
        emb_dim=draw(st.sampled_from([8, 12, 30])),
        num_heads=draw(st.integers(1, 5)),
        head_dim=draw(st.sampled_from([4, 7, 16])),
        mlp_dim=draw(st.integers(5, 40)),
        num_encoder_layers=draw(st.integers(1, 2)),
        num_decoder_layers=draw(st.integers(1, 2)),
    )
    padding = draw(st.sampled_from(["none", "right", "left", "both", "holes"]))
    # Beyond 128 positions all distances share a bucket; both sides of that are drawn.
    source = draw(st.sampled_from([1, 11, 150]))
    return family, sizes, padding, source, draw(st.sampled_from([1, 13, 140]))


def pad(rng, kind, shape):
    """Which positions are real; every row keeps at least one."""
    real = np.ones(shape, bool)
    length = shape[1]
    for row in real:
        cut = int(rng.integers(0, length))
        if kind == "right":
            row[length - cut :] = False
        elif kind == "left":
            row[:cut] = False
        elif kind == "both":
            row[: cut // 2] = False
            row[length - cut // 3 :] = False
        elif kind == "holes":
            row[rng.permutation(length)[:cut]] = False
        if not row.any():
            row[-1] = True
    return real


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(cases())
def test_the_network_equals_float64_numpy_whatever_its_shape_and_padding(case):
    family, sizes, padding, source, target = case
    config = tiny(family, **sizes)
    module, params = model(config)
    rng = np.random.default_rng(source * target)
    x = rng.integers(1, config.vocab_size, (2, source)) * pad(rng, padding, (2, source))
    t = rng.integers(1, config.vocab_size, (2, target))
    # Decoders are padded on the right, and on the left by whoever batches prompts so.
    t = t * pad(rng, padding if padding in ("left", "right") else "none", t.shape)
    y = reference_t5.shift_right(t)

    def run(params, x, y, t):
        encoded = module.apply(
            {"params": params}, x, enable_dropout=False, method="encode"
        )
        return encoded, module.apply(
            {"params": params}, encoded, x, y, t, enable_dropout=False, method="decode"
        )

    encoded, logits = jax.jit(run)(params, x, y, t)
    reference = reference_t5.Reference(config, params)
    for row in range(2):
        at, to = np.flatnonzero(x[row]), np.flatnonzero(t[row])
        hidden = reference.encode(x[row, at], at)
        expected = reference.decode(hidden, y[row, to], to)
        np.testing.assert_allclose(
            encoded[row, at], hidden, atol=3e-5 * np.abs(hidden).max()
        )
        np.testing.assert_allclose(
            logits[row, to], expected, atol=3e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_integer_arithmetic_at_every_distance(bidirectional):
    distances = np.arange(-300, 301)
    for buckets, most in ((32, 128), (16, 100), (64, 256)):
        expected = [
            reference_t5.exact_bucket(int(d), bidirectional, buckets, most)
            for d in distances
        ]
        found = relative_buckets(
            distances,
            bidirectional=bidirectional,
            num_buckets=buckets,
            max_distance=most,
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (4, 9), (9, 4)])
def test_position_biases_are_the_table_at_the_buckets_of_key_minus_query(queries, keys):
    module = RelativeBias(num_heads=3, bidirectional=True)
    table = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)

    @jax.jit
    def bias(table):
        return module.apply({"params": {"rel_embedding": table}}, queries, keys)

    distances = np.arange(keys)[None] - np.arange(queries)[:, None]
    buckets = relative_buckets(distances, bidirectional=True)
    np.testing.assert_array_equal(bias(table)[0], table[:, buckets])
    # Its gradient counts how often each bucket occurs.
    counts = np.bincount(buckets.ravel(), minlength=32)
    gradient = jax.grad(lambda table: bias(table).sum())(table)
    np.testing.assert_allclose(gradient, np.tile(counts, (3, 1)))


def test_packed_examples_get_the_logits_they_have_alone():
    module, params = model(tiny())
    rng = np.random.default_rng(1)
    x, t = rng.integers(1, 61, (1, 12)), rng.integers(1, 61, (1, 10))
    x_segments = np.array([[1] * 5 + [2] * 4 + [0] * 3])
    t_segments = np.array([[1] * 4 + [2] * 5 + [0]])
    x, t = x * (x_segments > 0), t * (t_segments > 0)
    y = reference_t5.shift_right(t)
    y[0, 4] = 0

    @jax.jit
    def logits(params, x, y, t, x_segments, t_segments):
        return module.apply(
            {"params": params}, x, y, t, x_segments, t_segments, enable_dropout=False
        )

    packed = logits(params, x, y, t, x_segments, t_segments)
    for segment in (1, 2):
        # Alone at the beginning of a row of the same length.
        own_x, own_y, own_t = np.zeros_like(x), np.zeros_like(y), np.zeros_like(t)
        at, to = x_segments[0] == segment, t_segments[0] == segment
        own_x[0, : at.sum()] = x[0, at]
        own_y[0, : to.sum()], own_t[0, : to.sum()] = y[0, to], t[0, to]
        alone = logits(params, own_x, own_y, own_t, own_x * 0 + 1, own_t * 0 + 1)
        np.testing.assert_allclose(
            packed[0, to], alone[0, : to.sum()], rtol=2e-5, atol=2e-5
        )


def test_a_row_of_padding_gives_finite_logits_and_gradients():
    module, params = model(tiny(**FLAT))
    x, y = random_rows(2)
    x = x.at[1].set(0)

    def total(params):
        return jnp.sum(forward(module, params, x, y) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("family", sorted(reference_t5.FAMILIES))
def test_hidden_states_times_the_head_are_the_logits(family):
    module, params = model(tiny(family, **FLAT))
    x, y = random_rows(3)

    @jax.jit
    def both(params):
        hidden = forward(module, params, x, y, hidden=True)
        return hidden @ head_kernel(params, module.config), forward(
            module, params, x, y
        )

    product, logits = both(params)
    np.testing.assert_allclose(product, logits, rtol=1e-4, atol=1e-4)


def test_dropout_needs_a_key_changes_logits_and_can_be_left_off():
    module, params = model(tiny(dropout_rate=0.5, **FLAT))
    x, y = random_rows(4)
    plain = forward(module, params, x, y)
    first, again, other = (
        forward(module, params, x, y, dropout=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - plain).max() > 0.1
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(plain, forward(module, params, x, y))
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        module.apply({"params": params}, x, y, y)


def test_dropout_draws_one_mask_for_all_positions():
    # Zeroed layers leave only the dropout of the embedded inputs and the last one,
    # which T5X draws per position in the encoder and per row in the decoder.
    config = tiny(dropout_rate=0.5, **FLAT)
    module, params = model(config)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.zeros_like(leaf)
            if path[-2].key in ("out", "wo") and path[-1].key == "kernel"
            else leaf
        ),
        params,
    )
    x, y = random_rows(5, rows=1)
    hidden = forward(module, params, x, y, dropout=0, hidden=True)[0]
    dropped = np.asarray(hidden == 0)
    assert (dropped == dropped[:1]).all()
    assert 0 < dropped[0].sum() < config.emb_dim
    encode = functools.partial(module.apply, method="encode")
    encoded = jax.jit(encode)({"params": params}, x, rngs={"dropout": dropout_key(0)})
    dropped = np.asarray(encoded[0] == 0)
    assert not (dropped == dropped[:1]).all()


def test_bfloat16_keeps_float32_parameters_and_logits_close_to_them():
    module, params = model(tiny(**FLAT))
    half = Transformer(tiny(dtype="bfloat16", **FLAT))
    x, y = random_rows(6)

    @jax.jit
    def rough_and_gradient(params):
        rough, pull = jax.vjp(lambda p: forward(half, p, x, y), params)
        return rough, pull(jnp.ones_like(rough))[0]

    exact = forward(module, params, x, y)
    rough, gradient = rough_and_gradient(params)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_one_hot_and_gathered_embeddings_are_equal():
    module, params = model(tiny(embedding_lookup="gather", **FLAT))
    other = Transformer(tiny(embedding_lookup="one_hot", **FLAT))
    x, y = random_rows(7)
    np.testing.assert_array_equal(
        forward(module, params, x, y), forward(other, params, x, y)
    )


def test_an_id_outside_the_vocabulary_shows_as_nan():
    module, params = model(tiny(**FLAT))
    x, y = random_rows(8)
    x = x.at[0, 3].set(61)
    assert np.isnan(forward(module, params, x, y)[0]).all()


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 3)])
def test_eight_devices_give_the_logits_and_gradients_of_one(shape):
    config = tiny(vocab_size=64, emb_dim=16, mlp_dim=24, **FLAT)
    module, params = model(config)
    x, y = random_rows(9, rows=8)
    mesh = sharding.make_mesh(*shape)
    axes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, y, y, enable_dropout=False)
    )["params_axes"]
    rules = sharding.fit_rules(mesh, params, axes, sharding.DEFAULT_RULES)
    shardings = sharding.state_shardings(mesh, params, axes, rules)

    def loss(params, x, y):
        logits = forward(module, params, x, y)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2), logits

    step = jax.value_and_grad(loss, has_aux=True)
    (expected, logits), gradient = jax.jit(step)(params, x, y)
    batch = sharding.batch_sharding(mesh)
    with sharding.activate(mesh, rules):
        (found, sharded), sharded_gradient = jax.jit(
            step, in_shardings=(shardings, batch, batch)
        )(params, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(sharded, logits, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        sharded_gradient,
        gradient,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logical_axes_are_named_for_every_parameter(dtype):
    for scan in (False, True):
        module = Transformer(tiny(scan_layers=scan, dtype=dtype))
        x, y = random_rows(0)
        variables = jax.eval_shape(
            lambda m=module, x=x, y=y: m.init(
                jax.random.key(0), x, y, y, enable_dropout=False
            )
        )
        params = flatten_dict(variables["params"], sep="/")
        axes = {
            name.removesuffix("_axes"): axes.names
            for name, axes in flatten_dict(variables["params_axes"], sep="/").items()
        }
        assert {name: len(names) for name, names in axes.items()} == {
            name: leaf.ndim for name, leaf in params.items()
        }
        assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
        known = {name for name, _ in sharding.DEFAULT_RULES}
        assert {name for names in axes.values() for name in names} <= known


# Counts of the published checkpoints (32128 rows): google/t5-*, t5-v1_1-*, flan-t5-*.
# Sizes are heads, head size, D, MLP, layers. Of UL2 its owners publish the sizes (Tay
# et al. 2022) and "19.5B" (the card of google/flan-ul2): that is the sum with a tied
# head. With one of its own it would be 19.59B, and a runtime that does not scale the
# output by D^-0.5 would not saturate on it as one does (ggml-org/llama.cpp#9085).
PUBLISHED = {
    "t5-small": ("t5_1_0", 8, 64, 512, 2048, 6, 60_506_624),
    "t5-base": ("t5_1_0", 12, 64, 768, 3072, 12, 222_903_552),
    "t5-large": ("t5_1_0", 16, 64, 1024, 4096, 24, 737_668_096),
    "t5-3b": ("t5_1_0", 32, 128, 1024, 16384, 24, 2_851_598_336),
    "t5-11b": ("t5_1_0", 128, 128, 1024, 65536, 24, 11_307_321_344),
    "flan-t5-small": ("t5_1_1", 6, 64, 512, 1024, 8, 76_961_152),
    "flan-t5-base": ("t5_1_1", 12, 64, 768, 2048, 12, 247_577_856),
    "flan-t5-large": ("t5_1_1", 16, 64, 1024, 2816, 24, 783_150_080),
    "flan-t5-xl": ("t5_1_1", 32, 64, 2048, 5120, 24, 2_849_757_184),
    "flan-t5-xxl": ("t5_1_1", 64, 64, 4096, 10240, 24, 11_135_332_352),
    "ul2": ("ul2", 16, 256, 4096, 16384, 32, 19_459_613_696),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_counts_are_the_published_ones(name):
    family, heads, size, d, mlp, layers, expected = PUBLISHED[name]
    head = {"logits_via_embedding": True} if name == "ul2" else {}
    config = T5Config(
        vocab_size=32128,
        num_heads=heads,
        head_dim=size,
        emb_dim=d,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        scan_layers=True,
        **(reference_t5.FAMILIES[family] | head),
    )
    token = jnp.ones((1, 1), jnp.int32)
    variables = jax.eval_shape(
        lambda: Transformer(config).init(
            jax.random.key(0), token, token, token, enable_dropout=False
        )
    )
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=0), "num_heads = 0"),
        (dict(remat_policy="some"), "none, save_dots"),
        (dict(mlp_activations=("gelu", "linaer")), "linaer"),
        (dict(mlp_activations=()), r"mlp_activations = \(\); name at least one"),
        (dict(dropout_rate=1.0), "dropout_rate = 1.0"),
        (dict(dtype="float61"), "float61"),
        (dict(dtype="float16"), "overflow"),
        (dict(embedding_lookup="hash"), "gather, one_hot"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        tiny(**change)


def test_logical_constraints_shard_activations_under_rules():
    module, params = model(tiny(**FLAT))
    x, y = random_rows(1, rows=8)
    mesh = sharding.make_mesh(4, 2, 1)
    # Numpy arguments have no sharding to pass on: only a constraint can cut the rows.
    with sharding.activate(mesh):
        logits = jax.jit(
            lambda p, x, y: module.apply({"params": p}, x, y, y, enable_dropout=False)
        )(params, np.asarray(x), np.asarray(y))
    assert logits.sharding.spec[0] == ("fsdp", "data")
    assert {shard.data.shape for shard in logits.addressable_shards} == {(1, 7, 61)}


@pytest.mark.parametrize("lookup", ["gather", "one_hot"])
def test_a_mesh_of_three_axes_embeds_every_row_where_it_is(lookup):
    """XLA mixes up rows if the batch is over (data, fsdp); only some sizes show it."""
    embed = layers.Embed(48, 64, lookup=lookup)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 48, (8, 16)), jnp.int32)
    variables = embed.init(jax.random.key(0), ids)
    mesh = sharding.make_mesh(2, 2, 2)
    params, axes = variables["params"], variables["params_axes"]
    places = sharding.param_shardings(mesh, params, axes)
    rows = sharding.batch_sharding(mesh)
    with sharding.activate(mesh):
        found = jax.jit(
            lambda p, x: embed.apply({"params": p}, x), in_shardings=(places, rows)
        )(params, ids)
    np.testing.assert_allclose(found, np.asarray(params["embedding"])[ids], rtol=1e-6)
