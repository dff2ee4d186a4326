"""A base that is quantised while it is read: the same codes, and little memory."""

import json
import pathlib
import subprocess
import sys
import threading
import time
import tracemalloc

import jax
import least
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from specialize import sharding
from specialize.checkpoints import load_params, loading, names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.student.adapters import quantization
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.model import Student
from specialize.student.network.architecture import T5Config
from specialize.student.network.layout import unroll_params
from specialize.student.network.transformer import Transformer
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import adapted, plan_state

# 11M weights, of which 10M are in kernels that are quantised.
SMALL = {"emb_dim": 256, "num_heads": 4, "mlp_dim": 1024}
# 0.58 billion.
LARGE = {"emb_dim": 1024, "num_heads": 16, "mlp_dim": 4096}
LAYERS = {"small": 4, "large": 14}


def network(scan=False, size="small"):
    sizes = SMALL if size == "small" else LARGE
    layers = dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), LAYERS[size])
    activations = ("gelu", "linear")
    fields = {**sizes, **layers, "mlp_activations": activations, "scan_layers": scan}
    return T5Config(512, "bfloat16", head_dim=64, **fields)


def written(folder, config, seed=0):
    """A Hugging Face folder of random bfloat16 weights, drawn as they are written."""
    folder.mkdir()
    rng = np.random.default_rng(seed)

    def drawn(shape):
        dtype = np.dtype(ml_dtypes.bfloat16)

        def load(index):
            sizes = [one.stop - one.start for one in index]
            return (rng.standard_normal(sizes, np.float32) * 0.05).astype(dtype)

        return LazyTensor(shape, dtype, load)

    tensors = {name: drawn(shape) for name, shape in names.shapes(config).items()}
    huggingface.write_weights(folder, tensors)
    huggingface_companions.write_settings(folder, config, "bfloat16")
    return folder


def frozen(config, kind, mesh="1"):
    spec = AdapterSpec(2, quantize_base=kind)
    optimizer = make_optimizer(OptimizerSpec(total_steps=9, adapters=spec))
    student = adapted(Student(Transformer(config)), optimizer)
    inputs = ("encoder_input_tokens", "decoder_input_tokens")
    batch = {name: np.ones((8, 4), np.int32) for name in inputs}
    read = sharding.read_mesh(mesh)
    return plan_state(student, optimizer, batch, read, sharding.DEFAULT_RULES).frozen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("base") / "hf", network())


@pytest.mark.parametrize(
    ("stored", "scan", "mesh"),
    [("hf", False, "1"), ("hf", True, "2x4"), ("scanned", True, "1")],
)
def test_any_layout_on_any_mesh_gives_the_same_codes(
    folder, stored, scan, mesh, tmp_path, monkeypatch
):
    source = folder
    if stored == "scanned":
        source = tmp_path / "t5x"
        convert(str(folder), str(source), to="t5x", layers="scanned")
        monkeypatch.setattr(loading, "_PART", 2**18)  # several parts of each kernel
    found = load_params(
        str(source), frozen(network(scan), "nf4", mesh), quantization="nf4"
    )
    flat = flatten_dict(unroll_params(jax.device_get(found)), sep="/")
    plain = load_params(str(folder), frozen(network(), "none"))
    checked = 0
    for name, kernel in flatten_dict(jax.device_get(plain), sep="/").items():
        if name in flat:
            np.testing.assert_array_equal(flat[name], kernel)
            continue
        place = name.removesuffix("kernel")
        codes, scales = quantization.quantize(kernel, "nf4", 64)
        np.testing.assert_array_equal(flat[f"{place}{quantization.CODES}"], codes)
        np.testing.assert_array_equal(flat[f"{place}{quantization.SCALES}"], scales)
        checked += 1
    assert checked == 4 * (4 + 3) + 4 * (8 + 3)


@pytest.mark.parametrize("scan", [False, True])
def test_only_parts_of_kernels_are_in_memory_as_numbers(folder, scan, monkeypatch):
    opening = loading.open_checkpoint

    def opened(*args, **options):
        found = opening(*args, **options)
        tracemalloc.reset_peak()  # a reader of JSON has room for a GiB
        return found

    monkeypatch.setattr(loading, "open_checkpoint", opened)
    wanted = frozen(network(scan), "int4")
    load_params(str(folder), wanted, quantization="int4")  # what is imported once
    peak = least.memory(
        lambda: load_params(str(folder), wanted, quantization="int4"), times=2
    )
    leaves = jax.tree.leaves(wanted)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    whole = sum(np.prod(shape) for shape in names.shapes(network()).values())
    # Four readers hold one kernel of 0.26M weights each, and quantise it in float32.
    assert peak < kept + 4 * (2 + 6 * 4) * 0.27e6
    assert peak < 4 * whole


def anonymous():
    """Bytes of memory of this process that no file backs."""
    text = pathlib.Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.startswith("RssAnon")
    )


def load_and_measure(folder, scan):
    """Prints the growth of anonymous memory while a large base is read."""
    wanted = frozen(network(scan, "large"), "nf4")
    before, most, done = anonymous(), [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    params = load_params(str(folder), wanted, quantization="nf4")
    jax.block_until_ready(params)
    after = anonymous()
    done.set()
    watcher.join()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    found = {"peak": most[0] - before, "after": after - before, "stored": stored}
    print(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_a_host_never_holds_a_large_base(tmp_path, scan):
    """0.58 billion weights, 1.1 GiB in bfloat16 and 2.2 GiB in float32."""
    config = network(size="large")
    path = written(tmp_path / "hf", config)
    size = 2 * sum(np.prod(shape) for shape in names.shapes(config).values())
    assert size > 1e9
    command = [sys.executable, __file__, str(path), str(int(scan))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(found, size)
    assert found["stored"] < 0.3 * size
    assert found["peak"] < found["stored"] + 0.35 * size


if __name__ == "__main__":
    load_and_measure(sys.argv[1], bool(int(sys.argv[2])))
