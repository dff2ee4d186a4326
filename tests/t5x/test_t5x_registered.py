"""Tasks of SeqIO that a user's module registers, in a mixture with a corpus, under T5X.

The module has tasks and a mixture of a mixture with rates of their own, one of them a
function. A gin file imports it, or the command line, and the mixture of the run names
them beside a corpus.
"""

import collections
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.train")

import seqio
import t5x_cases as cases
from flax.traverse_util import unflatten_dict
from own_task_cases import lengths, read_lines, recipe
from t5x import utils
from test_t5x_engine import events

from specialize.checkpoints.opening import open_checkpoint
from specialize.config import neutral
from specialize.student import model as student
from specialize.student.loss.losses import LossConfig
from specialize.student.loss.spec import PART
from specialize.student.network.transformer import Transformer
from specialize.training.data.converter import SpecializeFeatureConverter
from specialize.training.data.mixtures import load_mixture
from specialize.training.optimization import optimizers, step
from specialize.training.optimization.spec import OptimizerSpec

MODULE = """
import functools

import seqio
import tensorflow as tf

from specialize_tasks import locations

FEATURES = {
    "inputs": seqio.Feature(locations.VOCABULARY, add_eos=False),
    "targets": seqio.Feature(locations.VOCABULARY, add_eos=True),
}


def pairs(split, shuffle_files, seed=None, *, word):
    inputs = [f"{word} {number}" for number in range(10)]
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": inputs})


def add(word, split="train"):
    seqio.TaskRegistry.add(
        f"registered_{word}",
        source=seqio.FunctionDataSource(
            functools.partial(pairs, word=word), splits=[split]
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=FEATURES,
    )
    return f"registered_{word}"


seqio.MixtureRegistry.add(
    "registered_pair", [(add("how"), 1.0), (add("many"), lambda task: 3.0)]
)
seqio.MixtureRegistry.add(
    "registered_all",
    [("registered_pair", 2.0), (add("the"), 2.0), (add("none", "test"), 4.0)],
)
add("alone")
"""
# Share of the examples of each task in "registered_all" that has a split "train".
WITHIN = {"how": 1 / 8, "many": 3 / 8, "the": 1 / 2}
LENGTHS = lengths(160, 64)
SPEC = OptimizerSpec("adamw", 1e-2, schedule="constant")
WEIGHTS = {"registered_alone": 0.5}
SETTINGS = f"""
SCAN_LAYERS = False
DTYPE = 'float32'
DROPOUT_RATE = 0.0
BATCH_SIZE = 16
LEARNING_RATE = {SPEC.learning_rate}
SCHEDULE = '{SPEC.schedule}'
WARMUP_STEPS = 0
PART_WEIGHTS = {WEIGHTS!r}
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = 2
LOG_PERIOD = 1
"""


@pytest.fixture(scope="module")
def place(world, tmp_path_factory, one_device):
    """The user's module, which both engines and this process find, and a recipe."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "registered_by_a_user.py").write_text(MODULE)
    shares = {str(world / "corpus"): 5, "registered_all": 4, "registered_alone": 1}
    settings = (
        f"{SETTINGS}MIXTURE_OR_TASK_NAME = {shares!r}\n"
        f"VOCABULARY_PATH = '{world / 'spiece.model'}'\n"
    )
    (folder / "recipe.gin").write_text(recipe(LENGTHS, settings, tiny=False))
    (folder / "import.gin").write_text("import registered_by_a_user\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(one_device, "PYTHONPATH", str(folder))
        patch.syspath_prepend(str(folder))
        patch.setenv("SPECIALIZE_VOCABULARY", str(world / "spiece.model"))
        importlib.import_module("registered_by_a_user")
        yield folder, shares


@pytest.fixture(scope="module")
def initial(world, place):
    return cases.random_student(place[0], world / "spiece.model")


def test_registered_tasks_are_drawn_with_the_stated_shares_and_own_rates(
    place, tmp_path
):
    """As T5X reads the mixture; our engine has the same rates."""
    _, shares = place
    ours = load_mixture(shares, "train", LENGTHS, tmp_path)
    provider = seqio.get_mixture_or_task(ours.name)
    assert [one.task for one in ours.tasks] == [task.name for task in provider.tasks]
    assert list(ours.rates) == [provider.get_rate(task) for task in provider.tasks]
    count = 4000
    drawn = provider.get_dataset(
        LENGTHS, "train", shuffle=True, seed=0, num_epochs=None
    ).take(count)
    words = provider.output_features["inputs"].vocabulary
    found = collections.Counter()
    for example in drawn.as_numpy_iterator():
        [part] = {*(example["format_id"] // PART).tolist()}
        text = words.decode(example["inputs"].tolist())
        found[part, "" if part == 1 else text.split()[0]] += 1
        if part != 1:  # as the task says, EOS ends the target only
            assert example["targets"][-1] == words.eos_id != example["inputs"][-1]
    expected = {(2, word): 0.4 * share for word, share in WITHIN.items()}
    expected |= {(1, ""): 0.5, (3, "alone"): 0.1}
    assert found.keys() == expected.keys()
    for key, share in expected.items():
        assert found[key] / count == pytest.approx(share, abs=0.025), key


@pytest.fixture(scope="module")
def trained(place, initial, run):
    """Two steps under T5X."""
    folder, _ = place
    run(
        "t5x.train",
        "--gin_file=t5x_configs/runs/t5x_train.gin",
        f"--gin_file={folder / 'recipe.gin'}",
        f"--gin_file={folder / 'import.gin'}",
        f"--gin.MODEL_DIR={str(folder / 'run')!r}",
        f"--gin.INITIAL_CHECKPOINT_PATH={str(initial)!r}",
    )
    return events(folder / "run")


def test_t5xs_steps_on_registered_tasks_are_ours_on_the_same_batches(
    place, initial, trained
):
    """Loss and every metric of every part, of two steps from the same weights."""
    _, shares = place
    settings = utils.DatasetConfig(
        mixture_or_task_name=neutral.mixture_name(shares),
        task_feature_lengths=LENGTHS,
        split="train",
        batch_size=16,
        shuffle=True,
        seed=0,
        pack=True,
    )
    batches = utils.get_dataset(settings, 0, 1, SpecializeFeatureConverter)
    opened = open_checkpoint(str(initial))
    network = opened.config.replace(
        dtype="float32", scan_layers=False, dropout_rate=0.0
    )
    model = student.Student(
        Transformer(network),
        loss=LossConfig(parts=neutral.parts(shares, WEIGHTS)),
    )
    params = unflatten_dict(
        {
            tuple(name.split("/")): jnp.asarray(tensor.read())
            for name, tensor in opened.tensors.items()
        }
    )
    shapes = {name: spec.shape for name, spec in batches.element_spec.items()}
    axes = jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.key(0), shapes)
    )["params_axes"]
    own = optimizers.make_optimizer(SPEC).with_axes(axes)
    state = step.initial_state(params, own)
    train_step = jax.jit(step.make_train_step(model.loss_sums, own, seed=0))
    for number, batch in enumerate(batches.take(2).as_numpy_iterator()):
        batch = {name: jnp.asarray(value) for name, value in batch.items()}
        state, healthy, metrics = train_step(state, jnp.asarray(True), batch)
        assert bool(healthy)
        for part in ("corpus", "registered_all", "registered_alone"):
            for metric in ("loss", "ce", "kl"):
                assert float(metrics[f"{part}/{metric}"][1]) > 0
        assert float(metrics["corpus/soft_share"][0]) > 0
        assert float(metrics["registered_all/soft_share"][0]) == 0
        for name, (total, weight) in metrics.items():
            if name not in trained:
                continue
            # Nothing to show is 0 / 0, as of soft rows where all are certain.
            ours = float(total) / float(weight) if weight else np.nan
            np.testing.assert_allclose(
                trained[name][number], ours, rtol=1e-4, atol=1e-6, err_msg=name
            )
    # What T5X shows apart.
    parts = {name.rpartition("/")[0] for name in trained}
    assert {"corpus", "registered_all", "registered_alone"} <= parts
    assert trained["loss"][1] != trained["loss"][0]


def test_our_engine_trains_on_the_same_recipe(place, initial, trained, run, tmp_path):
    folder, _ = place
    run(
        *("specialize", "train", "--gin_file", folder / "recipe.gin"),
        *("--gin_bindings", "import registered_by_a_user"),
        f"--gin.MODEL_DIR={str(tmp_path / 'run')!r}",
        f"--gin.INITIAL_CHECKPOINT_PATH={str(initial)!r}",
    )
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    ours = {name for line in lines for name in line["train"] if name.endswith("/ce")}
    assert ours == {name for name in trained if name.endswith("/ce")}
