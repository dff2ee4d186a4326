"""The cases of `specialize bench`: the functions that training and decoding run."""

import functools
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specialize import memory, sharding
from specialize.cost.bench.batch import packed_batch
from specialize.cost.bench.protocol import Case
from specialize.cost.bench.shapes import BenchShape
from specialize.cost.bench.stream import example_lengths, examples
from specialize.student.decoding.decoding import generate
from specialize.student.loss.losses import distillation_loss, fused_distillation_loss
from specialize.student.model import Student
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer
from specialize.training.data.batches import BatchSource, Mixture
from specialize.training.data.spec import DataSpec
from specialize.training.logging.throughput import published_peak, training_flops
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.step import initial_state, make_train_step

# Sizes for `matmul`: on a CPU the caches hold it, elsewhere it fills the device.
MATMUL_SIZES = {"cpu": 2048}
OTHER_MATMUL_SIZE = 8192
LOSS_TOKENS = 8192
# Lengths for which packing fills sequences of the four-format GSM8K mixture well.
STREAM_LENGTHS = (2048, 432)
# Batches per timed step of the input: packers work in bursts, ours in windows of 64 of
# these batches, SeqIO's of about 85.
STREAM_BATCHES = 320


def facts(**more: Any) -> dict[str, Any]:
    """Device and versions, with `more` facts."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    kind = device.device_kind if device.platform != "cpu" else _processor()
    return {
        "platform": device.platform,
        "device": f"{len(jax.devices())} x {kind}",
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in names},
        **more,
    }


def student(shape: BenchShape, *, fused: bool = True) -> Student:
    """A Flan-T5 (T5 1.1) of this shape."""
    config = T5Config(
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
        scan_layers=shape.scan_layers,
        remat_policy=shape.remat_policy,
        attention=shape.attention,
    )
    return Student(Transformer(config), fused=fused)


def matmul(shape: BenchShape) -> Case:
    """A square matrix product under jit, for comparison; on a CPU in float32."""
    platform = jax.devices()[0].platform
    size = MATMUL_SIZES.get(platform, OTHER_MATMUL_SIZE)
    dtype = jnp.dtype("float32" if platform == "cpu" else shape.dtype)
    matrix = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    return Case(
        lambda: product(matrix).block_until_ready(),
        facts(flops=2.0 * size**3, yardstick=f"{size} x {size} {dtype.name}"),
        _device_peak(),
    )


def train(shape: BenchShape, *, fused: bool = True) -> Case:
    """One optimizer step with dropout and packed sequences."""
    model = student(shape, fused=fused)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = jax.tree.map(jnp.asarray, packed_batch(shape))
    shapes = {name: values.shape for name, values in batch.items()}
    make = jax.jit(lambda key: model.get_initial_variables(key, shapes))
    variables = make(jax.random.key(0))
    spec = OptimizerSpec(shape.optimizer, learning_rate=1e-4, schedule="constant")
    chain = make_optimizer(spec).with_axes(variables["params_axes"])
    state = jax.jit(lambda params: initial_state(params, chain), donate_argnums=0)(
        variables["params"]
    )
    step = make_train_step(model.loss_sums, chain, seed=0)
    held = [state, jnp.ones((), bool)]
    with sharding.activate(mesh):
        compiled = jax.jit(step, donate_argnums=0).lower(*held, batch).compile()
    del state, variables
    memory.return_freed()

    def run() -> None:
        held[0], held[1], metrics = compiled(held[0], held[1], batch)
        if not np.isfinite(metrics["loss"][0]):
            raise FloatingPointError("the loss of the benchmark is not finite")

    sizes = (shape.batch, shape.input_length, shape.target_length)
    return Case(
        run,
        facts(
            useful_tokens=_useful(batch),
            positions=shape.positions,
            rows=shape.batch,
            peak_flops=published_peak(),
            flops=training_flops(model.module.config, *sizes),
            temporary_bytes=_temporary_bytes(compiled),
        ),
        _device_peak(),
    )


def loss(shape: BenchShape, *, fused: bool = True) -> Case:
    """Value and both gradients of the loss of 8,192 tokens."""
    lines = -(-LOSS_TOKENS // shape.target_length)
    wide = BenchShape(**{**vars(shape), "batch": lines})
    batch = packed_batch(wide)
    names = ["target_tokens", "teacher_ids", "teacher_probs", "teacher_tail"]
    names += ["loss_weights", "format_ids"]
    teacher: Any = [jnp.asarray(batch[f"decoder_{name}"]) for name in names]
    key = jax.random.key(0)
    width, dtype = shape.emb_dim, jnp.dtype(shape.dtype)
    hidden = jax.random.normal(key, (lines, shape.target_length, width), dtype)
    head = jax.random.normal(key, (width, shape.vocabulary)) * width**-0.5

    def value(hidden: Any, head: Any) -> Any:
        if fused:
            sums = fused_distillation_loss(hidden, head, *teacher)
        else:
            logits = jnp.dot(
                hidden, head.astype(dtype), preferred_element_type=jnp.float32
            )
            sums = distillation_loss(logits, *teacher)
        return sums.loss, sums

    function = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
    compiled = function.lower(hidden, head).compile()
    return Case(
        lambda: jax.block_until_ready(compiled(hidden, head)),
        facts(
            useful_tokens=int((batch["decoder_loss_weights"] > 0).sum()),
            positions=wide.tokens,
            flops=6.0 * wide.tokens * width * shape.vocabulary,
            temporary_bytes=_temporary_bytes(compiled),
        ),
        _device_peak(),
    )


def decode(shape: BenchShape) -> Case:
    """Greedy decoding of targets that all have the maximum length."""
    model = student(shape)
    inputs = packed_batch(shape)["encoder_input_tokens"]
    tokens = jnp.asarray(np.where(inputs == 0, 5, inputs))
    sides = ("encoder_input_tokens", "decoder_input_tokens")
    shapes: dict[str, Any] = dict.fromkeys(sides, tokens.shape)
    make = jax.jit(lambda key: model.get_initial_variables(key, shapes)["params"])
    params = make(jax.random.key(0))
    decoder = jax.jit(
        lambda params, tokens: generate(
            model.module, params, tokens, max_length=shape.target_length, eos_id=-1
        )
    )
    sizes = (shape.batch, shape.input_length, shape.target_length)
    flops = training_flops(model.module.config, *sizes)
    return Case(
        lambda: jax.block_until_ready(decoder(params, tokens)),
        facts(useful_tokens=shape.tokens, positions=shape.tokens, flops=flops / 3),
        _device_peak(),
    )


def input(shape: BenchShape) -> Case:  # noqa: A001 (the command is called so)
    """The next batch of the training input: packing and assembling, on the host."""
    lengths = (shape.input_length, shape.target_length)
    return _stream(shape, example_lengths("zero_shot_cot", 4000, lengths), lengths)


def input_formats(shape: BenchShape, *, pack: bool = True) -> Case:
    """As `input`, for a stream like the four-format GSM8K mixture, at 2048/432."""
    sizes = example_lengths("all", 8000, STREAM_LENGTHS)
    return _stream(shape, sizes, STREAM_LENGTHS, pack=pack)


CASES: dict[str, Callable[[BenchShape], Case]] = {
    "matmul": matmul,
    "train": train,
    # Not fused: with all logits in memory.
    "train_plain": functools.partial(train, fused=False),
    "loss": loss,
    "loss_plain": functools.partial(loss, fused=False),
    "decode": decode,
    "input": input,
    "input_formats": input_formats,
    # One example per sequence.
    "input_padded": functools.partial(input_formats, pack=False),
}


def _stream(
    shape: BenchShape,
    sizes: np.ndarray,
    lengths: tuple[int, int],
    *,
    pack: bool = True,
) -> Case:
    mixture = Mixture("bench", [examples(sizes, shape)], [1.0])
    sizes_of_row = {"inputs": lengths[0], "targets": lengths[1]}
    data = DataSpec(mixture, sizes_of_row, shape.batch, pack=pack)
    source = BatchSource(mixture, data)
    steps = source.steps_per_window
    plans = [source.layout(step) for step in range(steps)]
    useful = np.array([[p.encoder_tokens, p.decoder_tokens] for p in plans]).mean(0)
    filled = useful / (shape.batch * np.array(lengths))
    at = [steps]

    def run() -> None:
        for _ in range(STREAM_BATCHES):
            source.prepare_ahead(at[0])
            source.batch(at[0])
            at[0] += 1

    return Case(
        run,
        facts(
            useful_tokens=int(useful.sum()),
            positions=shape.batch * sum(lengths),
            encoder_filled=float(filled[0]),
            decoder_filled=float(filled[1]),
            padded_filled=float(sizes.sum() / (len(sizes) * sum(lengths))),
        ),
        times=STREAM_BATCHES,
    )


def _useful(batch: dict[str, Any]) -> int:
    sides = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int((np.asarray(batch[side]) > 0).sum()) for side in sides)


def _device_peak() -> Callable[[], int] | None:
    device = jax.devices()[0]
    stats = device.memory_stats()
    if not stats or "peak_bytes_in_use" not in stats:
        return None
    return lambda: int(device.memory_stats()["peak_bytes_in_use"])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "CPU"


def _temporary_bytes(compiled: Any) -> int:
    """Bytes that the compiler allocates besides arguments and results."""
    return int(compiled.memory_analysis().temp_size_in_bytes)
