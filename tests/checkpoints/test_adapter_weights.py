"""Adapters beside weights mean what the weights mean that they are merged into."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from weight_cases import FAMILIES, realistic

from specialize.checkpoints import load_params
from specialize.checkpoints.formats import adapters, peft
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.opening import open_checkpoint
from specialize.checkpoints.source import AdapterRecord
from specialize.errors import InputError
from specialize.student.adapters import trees
from specialize.student.adapters.spec import AdapterSpec, projections
from specialize.student.decoding.decoding import generate
from specialize.student.loss import fused_loss, losses
from specialize.student.model import Student
from specialize.student.network.transformer import Transformer

SPEC = AdapterSpec(rank=3, alpha=6.0, targets=("query", "decoder/attention", "mlp"))
SOURCE = jnp.asarray([[5, 9, 7, 1, 0], [3, 4, 1, 0, 0]])
TARGET = jnp.asarray([[8, 2, 1], [6, 1, 0]])
BEFORE = jnp.pad(TARGET[:, :-1], ((0, 0), (1, 0)))


def adapted(config, spec=SPEC, **fields):
    return Transformer(dataclasses.replace(config, adapters=spec, **fields))


def shapes(module):
    return jax.eval_shape(
        lambda key: module.init(key, SOURCE, BEFORE, TARGET, enable_dropout=False),
        jax.random.key(0),
    )["params"]


def random_adapters(module, seed=1):
    """(trained, frozen): random matrices, which change a weight by a fifth of its
    size, and shapes."""
    trained, frozen = trees.split(shapes(module))
    rng = np.random.default_rng(seed)
    flat = {
        path: jnp.asarray(rng.standard_normal(leaf.shape, np.float32))
        * (0.1 if path[-1] == "lora_b" else leaf.shape[0] ** -0.5)
        for path, leaf in flatten_dict(trained).items()
    }
    return unflatten_dict(flat), frozen


def logits(module, params):
    return jax.jit(
        lambda params: module.apply(
            {"params": params}, SOURCE, BEFORE, TARGET, enable_dropout=False
        )
    )(params)


def merged(base, trained, spec):
    """The whole checkpoint of a base's folder and a tree of adapters."""
    stored = {"/".join(k): from_array(np.asarray(v)) for k, v in trained.items()}
    record = AdapterRecord(base.path, "", spec.rank, spec.alpha, spec.targets)
    found = adapters.of_run(stored, record, base, "run")
    return adapters.merged(found, path="run")


@pytest.mark.parametrize("scan", [False, True])
def test_merged_is_unmerged(family, hf_folder, scan):
    head = () if family.logits_via_embedding else ("logits_dense",)
    spec = dataclasses.replace(SPEC, targets=(*SPEC.targets, *head))
    module = adapted(family, spec, scan_layers=scan)
    folder = hf_folder(family, realistic(family))
    trained, frozen = random_adapters(module)
    params = trees.join(trained, load_params(str(folder), frozen))
    source = merged(open_checkpoint(str(folder)), flatten_dict(trained), spec)
    assert source.config == family
    whole = {n: jnp.asarray(tensor.read()) for n, tensor in source.tensors.items()}
    tree = unflatten_dict({tuple(n.split("/")): a for n, a in whole.items()})
    expected = logits(Transformer(family), tree)
    found = logits(module, params)
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    base = logits(Transformer(family), load_params(str(folder), shapes_of(family)))
    assert np.linalg.norm(found - base) > 1e-2 * np.linalg.norm(base)


def shapes_of(config):
    return shapes(Transformer(config))


@pytest.fixture(scope="module")
def network():
    """A network whose head and other projections are adapted, with random weights."""
    spec = dataclasses.replace(SPEC, targets=("attention", "logits_dense"))
    module = adapted(FAMILIES["t5_1_1"], spec, scan_layers=True)
    params = module.init(
        jax.random.key(0), SOURCE, BEFORE, TARGET, enable_dropout=False
    )["params"]
    trained, frozen = trees.split(params)
    return module, trained, frozen


def test_new_adapters_and_those_of_rank_0_change_no_bit(network):
    module, trained, frozen = network
    plain = Transformer(dataclasses.replace(module.config, adapters=None))
    expected = logits(plain, frozen)
    np.testing.assert_array_equal(logits(module, trees.join(trained, frozen)), expected)
    none = adapted(module.config, AdapterSpec(rank=0))
    assert shapes(none) == shapes(plain)
    np.testing.assert_array_equal(logits(none, frozen), expected)


def test_the_loss_and_decoding_read_the_head_with_its_adapter(network):
    module, _, frozen = network
    trained, _ = random_adapters(module)
    params = trees.join(trained, frozen)
    batch = {
        "encoder_input_tokens": SOURCE,
        "decoder_input_tokens": BEFORE,
        "decoder_target_tokens": TARGET,
    }

    def loss(fused):
        student = Student(module, fused=fused)
        return jax.value_and_grad(
            lambda own: student.loss_sums(trees.join(own, frozen), batch).loss
        )(trained)

    (value, gradient), (dense, other) = loss(True), loss(False)
    np.testing.assert_allclose(value, dense, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        gradient,
        other,
    )
    tokens = generate(module, params, SOURCE, max_length=6).tokens
    before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    scores = module.apply(
        {"params": params}, SOURCE, before, tokens, enable_dropout=False
    )
    used = np.asarray(tokens) > 0
    np.testing.assert_array_equal(np.argmax(scores, -1)[used], np.asarray(tokens)[used])


def test_a_frozen_head_has_no_gradient():
    hidden = jnp.ones((4, 8))
    head = jnp.ones((8, 32))
    rows = losses.make_rows(
        jnp.ones((4,), int), None, None, None, jnp.ones(4), None, jnp.dtype("float32")
    )
    tiling = fused_loss.make_tiling(None, 32, None)

    def products(argument):
        def loss(*given):
            return fused_loss.fused(losses.DEFAULT, tiling, *given, rows)[0]

        gradient = jax.grad(loss, argnums=argument)
        return str(jax.make_jaxpr(gradient)(hidden, head)).count("dot_general")

    assert products((0, 1)) - products(0) == 1


def test_dropout_of_adapters_drops_their_inputs_alone():
    config = dataclasses.replace(FAMILIES["t5_1_1"], dropout_rate=0.0)
    module = adapted(config, dataclasses.replace(SPEC, dropout=0.5))
    trained, frozen = random_adapters(module)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), frozen)

    def apply(own, key):
        return module.apply(
            {"params": trees.join(own, weights)},
            *(SOURCE, BEFORE, TARGET),
            rngs={"dropout": jax.random.key(key)},
        )

    without = jax.tree.map(jnp.zeros_like, trained)
    np.testing.assert_array_equal(apply(without, 0), apply(without, 1))
    assert not np.array_equal(apply(trained, 0), apply(trained, 1))


@pytest.mark.parametrize(
    ("targets", "number"),
    [
        (("query",), 3),
        (("attention",), 12),
        (("decoder/attention/value",), 2),
        (("encoder_decoder_attention",), 4),
        (("mlp",), 6),
        (("wi",), 4),
        (("wi_1", "encoder/wo"), 3),
        (("decoder",), 12),
        (("encoder", "logits_dense"), 8),
    ],
)
def test_a_target_names_projections(targets, number):
    network = FAMILIES["t5_1_1"]
    spec = AdapterSpec(rank=1, targets=targets)
    spec.check(network)
    known = projections(network)
    assert len(known) == 19
    assert sum(map(spec.adapts, known)) == number
    layered = [one.replace("/", "/layers_3/", 1) for one in known]
    scanned = [f"{one.split('/')[0]}/{one}" for one in known]
    assert sum(map(spec.adapts, layered)) == sum(map(spec.adapts, scanned)) == number


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": -1}, "rank = -1"),
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"targets": "query"}, "targets = 'query'; it must be a tuple"),
        ({"targets": ("qurey",)}, "Did you mean 'query'"),
        ({"targets": ("layers_0/query",)}, "is no projection"),
    ],
)
def test_a_wrong_field_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        AdapterSpec(**fields)


def test_a_target_that_the_network_lacks_is_refused():
    for target, name in (("wi_1", "t5_1_0"), ("logits_dense", "t5_1_0")):
        with pytest.raises(InputError, match="names no projection of this network"):
            adapted(FAMILIES[name], AdapterSpec(rank=1, targets=(target,)))


# ---- Folders of PEFT -----------------------------------------------------------------
@pytest.fixture
def folder(hf_folder, tmp_path):
    """A folder of PEFT, and the whole weights that it means."""
    config = FAMILIES["t5_1_1"]
    spec = dataclasses.replace(SPEC, targets=("query", "decoder/mlp", "logits_dense"))
    base = hf_folder(config, realistic(config))
    trained, _ = random_adapters(adapted(config, spec))
    source = merged(open_checkpoint(str(base)), flatten_dict(trained), spec)
    written = tmp_path / "peft"
    written.mkdir()
    matrices = peft.matrices_of(source.adapters)
    peft.write_folder(written, matrices, source.adapters, str(base))
    return written, source


def test_a_folder_of_peft_is_read_as_it_was_written(folder):
    written, source = folder
    found = open_checkpoint(str(written))
    assert found.format == "peft" and found.config == source.config
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), tensor.read())
    settings = json.loads((written / "adapter_config.json").read_text())
    # The decoder's MLP alone has no list of last names.
    assert r"decoder\.block\.\d+\.layer\.2" in settings["target_modules"]
    assert (settings["r"], settings["lora_alpha"]) == (3, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "sets use_dora"),
        ({"bias": "all"}, "sets bias"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights"),
        ({"peft_type": "IA3"}, "describes IA3 adapters"),
        ({"alpha_pattern": {"(a+)+": 2}}, "alpha_pattern has"),
        ({"base_model_name_or_path": None}, "does not say which weights"),
        ({"base_model_name_or_path": "./gone"}, "which cannot be opened: .*--base"),
        ({"lora_alpha": "x"}, "lora_alpha"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_folder_that_means_something_else_is_refused(folder, change, said):
    written, _ = folder
    path = written / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        open_checkpoint(str(written))


def test_a_folder_has_a_scale_per_module_and_of_the_root_of_the_rank(folder):
    written, source = folder
    path = written / "adapter_config.json"
    kernel = "encoder/layers_1/attention/query/kernel"
    own = {"encoder.block.1.layer.0.SelfAttention.q": 12, "k": 5}
    change = {"alpha_pattern": own, "use_rslora": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    pairs = open_checkpoint(str(written)).adapters.pairs
    scales = {name: round(pair.scale * 3**0.5, 9) for name, pair in pairs.items()}
    assert scales.pop(kernel) == 12 and set(scales.values()) == {6}
    base = source.adapters.base
    change = {"base_model_name_or_path": "moved"}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert open_checkpoint(str(written), base=base.path).adapters is not None


def test_adapters_of_adapters_are_refused(folder):
    written, _ = folder
    path = written / "adapter_config.json"
    change = {"base_model_name_or_path": str(written)}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="has adapters itself.*Merge them first"):
        open_checkpoint(str(written))


def test_adapters_of_another_network_are_refused(folder, hf_folder):
    written, _ = folder
    other = hf_folder(FAMILIES["ul2"], name="other")
    with pytest.raises(InputError, match="adapters do not fit"):
        open_checkpoint(str(written), base=str(other))
