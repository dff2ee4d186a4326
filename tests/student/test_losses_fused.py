"""The chunked and the sharded loss equal the plain loss, however a batch is split."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from loss_cases import CONFIGS, Case, dense_gradient, dense_value, random_case

from specialize.student.loss.losses import (
    LossConfig,
    distillation_loss,
    fused_distillation_loss,
)

WIDTH, VOCABULARY = 16, 64
EVERYTHING = CONFIGS["everything"]


def student(seed=0, dtype=jnp.float32, batch=8, length=5):
    random = np.random.default_rng(seed)
    case = random_case(seed, batch=batch, length=length, vocabulary=VOCABULARY)
    hidden = random.normal(size=(batch, length, WIDTH))
    head = random.normal(size=(WIDTH, VOCABULARY)) / 2
    return case.cast(np.float32), jnp.asarray(hidden, dtype), jnp.asarray(head, dtype)


def make_mesh(shape, names=("data", "model")):
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


@functools.cache
def compiled(config=EVERYTHING, **how):
    """One program for each objective and way of splitting, shared by the tests."""
    form = functools.partial(fused_distillation_loss, **how) if how else plain

    def loss(hidden, head, *teacher):
        sums = form(hidden, head, *teacher, config)
        return sums.loss, sums

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def run(arguments, config=EVERYTHING, **how):
    (_, sums), gradients = compiled(config, **how)(*arguments)
    return sums, gradients


def plain(hidden, head, *rest):
    logits = jnp.dot(hidden, head, preferred_element_type=jnp.float32)
    return distillation_loss(logits, *rest)


def dense(case: Case, hidden, head, config=EVERYTHING):
    """(loss, (d_hidden, d_head)) in float64, by formulas over the whole vocabulary."""
    hidden, head = np.asarray(hidden, np.float64), np.asarray(head, np.float64)
    case = dataclasses.replace(case.cast(np.float64), logits=hidden @ head)
    value = (dense_value(case, config) * case.weights).sum()
    d_logits = dense_gradient(case, config) * case.weights[..., None]
    d_head = np.einsum("bld,blv->dv", hidden, d_logits)
    return value, (d_logits @ head.T, d_head)


def assert_equal(a, b, tolerance=1e-5):
    """Sums relative to themselves, gradients relative to their largest entry."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, atol=tolerance * max(np.abs(y).max(), 1e-3))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fused_loss_and_its_gradients_equal_the_dense_formulas(name):
    case, hidden, head = student()
    config = CONFIGS[name]
    found, gradients = run((hidden, head, *case.teacher()), config, chunk=7)
    value, expected = dense(case, hidden, head, config)
    assert_equal((found.loss, gradients), (value, expected))
    assert np.abs(expected[0]).max() > 0.1


def test_the_fused_loss_is_the_plain_loss_with_all_its_metrics():
    case, hidden, head = student(1)
    arguments = (hidden, head, *case.teacher())
    assert_equal(run(arguments, chunk=7), run(arguments))


@pytest.mark.parametrize("chunk", [1, 40, None])
def test_the_size_of_a_chunk_does_not_matter(chunk):
    case, hidden, head = student(1)
    arguments = (hidden, head, *case.teacher())
    assert_equal(run(arguments, chunk=chunk), run(arguments, chunk=7))


def test_without_a_gradient_the_value_is_the_same_and_no_gradient_is_computed():
    case, hidden, head = student(2)
    arguments = (hidden, head, *case.teacher())
    value = functools.partial(fused_distillation_loss, config=EVERYTHING, chunk=40)
    value = jax.jit(value).lower(*arguments).compile()
    assert_equal(value(*arguments), run(arguments, chunk=40)[0])
    both = compiled(chunk=40).lower(*arguments).compile()
    # One of three matmuls, and the reductions.
    assert value.cost_analysis()["flops"] < 0.6 * both.cost_analysis()["flops"]


def test_tokens_of_weight_zero_are_set_aside_even_if_they_are_broken():
    case, hidden, head = student(3)
    dropped = case.weights == 0
    assert dropped.sum() > 3
    sums, (d_hidden, d_head) = run((hidden, head, *case.teacher()), chunk=7)
    broken = jnp.where(dropped[..., None], np.float32(1e30), hidden)
    again, (d_broken, d_again) = run((broken, head, *case.teacher()), chunk=7)
    assert not np.asarray(d_hidden)[dropped].any()
    assert_equal((again, d_broken, d_again), (sums, d_hidden, d_head), 1e-6)


def test_a_batch_without_any_weight_is_zero_and_finite():
    case, hidden, head = student(4)
    case.weights[:] = 0
    for leaf in jax.tree.leaves(run((hidden, head, *case.teacher()), chunk=7)):
        assert not np.asarray(leaf).any()


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1), (2, 2, 2)])
def test_eight_devices_are_one_device(shape):
    """Tokens over data and fsdp, the vocabulary over model; head stored over fsdp."""
    names = ("data", "model") if len(shape) == 2 else ("data", "fsdp", "model")
    mesh = make_mesh(shape, names)
    case, hidden, head = student(5)
    one = run((hidden, head, *case.teacher()), chunk=7)
    batch = NamedSharding(mesh, P(names[:-1]))
    columns = P("fsdp" if "fsdp" in names else None, "model")
    arguments = (
        jax.device_put(hidden, batch),
        jax.device_put(head, NamedSharding(mesh, columns)),
        *(jax.device_put(x, batch) for x in case.teacher()),
    )
    many = run(arguments, chunk=3, mesh=mesh)
    assert_equal(many, one)
    expected = dense(case, hidden, head)
    assert_equal((many[0].loss, many[1]), expected)
    if shape == (2, 4):
        value = functools.partial(fused_distillation_loss, chunk=3, mesh=mesh)
        value = jax.jit(functools.partial(value, config=EVERYTHING))
        assert_equal(value(*arguments), one[0])


@pytest.mark.filterwarnings("ignore:.with mesh:DeprecationWarning")
@pytest.mark.parametrize("context", ["jax.set_mesh", "with mesh"])
def test_the_mesh_of_the_context_is_found(context):
    mesh = make_mesh((2, 4))
    case, hidden, head = student(6)
    arguments = (hidden, head, *case.teacher())
    function = jax.jit(functools.partial(fused_distillation_loss, chunk=3))
    assert "all_reduce" not in function.lower(*arguments).as_text()
    with jax.set_mesh(mesh) if context == "jax.set_mesh" else mesh:
        assert "all_reduce" in function.lower(*arguments).as_text()
        value = function(*arguments).loss
    expected, _ = dense(case, hidden, head, LossConfig())
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_without_a_mesh_the_compiler_shards_the_loss_with_the_same_result():
    mesh = make_mesh((2, 4))
    case, hidden, head = student(7)
    batch = NamedSharding(mesh, P("data"))
    (_, sums), gradients = compiled(chunk=7)(
        jax.device_put(hidden, batch),
        jax.device_put(head, NamedSharding(mesh, P(None, "model"))),
        *(jax.device_put(x, batch) for x in case.teacher()),
    )
    assert_equal((sums.loss, gradients), dense(case, hidden, head))


def test_positions_and_columns_that_do_not_divide_are_still_exact():
    case, hidden, head = student(8, batch=3, length=5)  # 15 tokens on 4 devices
    head = jnp.concatenate([head, head[:, :1]], axis=1)  # 65 columns on 2 devices
    arguments = (hidden, head, *case.teacher())
    sums, gradients = run(arguments, chunk=3, mesh=make_mesh((4, 2)))
    assert_equal((sums.loss, gradients), dense(case, hidden, head))


@pytest.mark.parametrize("parts", [(1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize("how", [{}, {"chunk": 7}], ids=["plain", "fused"])
def test_microbatches_add_to_the_whole_batch(parts, how):
    case, hidden, head = student(9)
    whole = run((hidden, head, *case.teacher()))
    count, size = parts
    total, d_hidden, d_head = None, [], 0
    for index in range(count):
        at = slice(index * size, (index + 1) * size)
        part = (hidden[at], head, *case.rows(at).teacher())
        sums, gradients = run(part, **how)
        total = sums if total is None else total + sums
        d_hidden.append(gradients[0])
        d_head += gradients[1]
    assert_equal((total, (jnp.concatenate(d_hidden), d_head)), whole)


@pytest.mark.parametrize("how", [{}, {"chunk": 7}], ids=["plain", "fused"])
def test_padding_and_packing_leave_every_token_its_loss(how):
    """Eight rows of 5, padded to 9, or four rows of 10: the same tokens and sums."""
    case, hidden, head = student(10)
    expected, (d_hidden, d_head) = run((hidden, head, *case.teacher()), **how)

    def pad(x):
        return jnp.pad(x, [(0, 0), (0, 4)] + [(0, 0)] * (x.ndim - 2))

    def join(x):
        return x.reshape(4, 10, *x.shape[2:])

    padded, (d_padded, d_again) = run(
        (pad(hidden), head, *map(pad, case.teacher())), **how
    )
    assert_equal((padded, d_padded[:, :5], d_again), (expected, d_hidden, d_head))
    assert not np.asarray(d_padded[:, 5:]).any()
    packed, (d_packed, d_again) = run(
        (join(hidden), head, *map(join, case.teacher())), **how
    )
    assert_equal((packed, d_packed, d_again), (expected, join(d_hidden), d_head))


def test_a_tied_head_receives_the_gradient_of_its_embedding():
    case, hidden, head = student(11)

    def loss(embedding):
        head = embedding.T
        return fused_distillation_loss(
            hidden, head, *case.teacher(), EVERYTHING, chunk=7
        ).loss

    _, (_, d_head) = dense(case, hidden, head)
    assert_equal(jax.jit(jax.grad(loss))(head.T), d_head.T)


def test_bfloat16_states_are_accumulated_in_float32():
    case, hidden, head = student(12, dtype=jnp.bfloat16)
    value, gradients = dense(case, hidden, head)
    sums, (d_hidden, d_head) = run((hidden, head, *case.teacher()), chunk=7)
    assert sums.loss.dtype == jnp.float32
    assert d_hidden.dtype == d_head.dtype == jnp.bfloat16
    assert_equal(sums.loss, value)
    # Gradients are rounded to bfloat16 once on the way in and once on the way out.
    assert_equal((d_hidden, d_head), gradients, tolerance=2**-7)
    # A float32 head, as a trainer keeps it, gets a float32 gradient.
    head = head.astype(jnp.float32)
    _, (d_hidden, d_head) = run((hidden, head, *case.teacher()), chunk=7)
    assert d_hidden.dtype == jnp.bfloat16 and d_head.dtype == jnp.float32
    assert_equal((d_hidden, d_head), gradients, tolerance=2**-7)


def test_cross_entropy_alone_is_fused_too():
    case, hidden, head = student(14)
    config = LossConfig("sample", z_loss=1e-2)

    def loss(hidden, head):
        targets, _, _, _, weights, formats = case.teacher()
        arguments = targets, None, None, None, weights, formats
        return fused_distillation_loss(hidden, head, *arguments, config, chunk=7).loss

    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, head)
    assert_equal(found, dense(case, hidden, head, config))


def test_the_gradient_of_a_mean_is_the_gradient_of_the_sum_over_the_weight():
    """The backward pass scales what the forward pass has already computed."""
    case, hidden, head = student(15)

    def mean(hidden, head):
        sums = fused_distillation_loss(
            hidden, head, *case.teacher(), EVERYTHING, chunk=7
        )
        return sums.loss / sums.weight

    found = jax.jit(jax.grad(mean, (0, 1)))(hidden, head)
    _, expected = dense(case, hidden, head)
    assert_equal(found, jax.tree.map(lambda x: x / case.weights.sum(), expected))


@pytest.mark.slow
def test_memory_stays_under_a_twentieth_of_the_plain_path():
    """8,192 tokens of T5's vocabulary; compiled, not run."""
    shape = jax.ShapeDtypeStruct
    lines, slots, width, vocabulary = (16, 512), 5, 256, 32128
    arguments = (
        shape((*lines, width), jnp.float32),
        shape((width, vocabulary), jnp.float32),
        shape(lines, jnp.int32),
        shape((*lines, slots), jnp.int32),
        shape((*lines, slots), jnp.float32),
        shape(lines, jnp.float32),
        shape(lines, jnp.float32),
        shape(lines, jnp.int32),
    )
    plain_bytes, fused_bytes = (
        compiled(LossConfig(), **how)
        .lower(*arguments)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for how in ({}, {"chunk": None})
    )
    assert plain_bytes > 2 * 8192 * vocabulary * 4
    assert fused_bytes < 0.05 * plain_bytes
