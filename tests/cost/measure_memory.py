"""Run in a process of its own: what the compiler says against what the step took.

Prints {"predicted": bytes, "measured": bytes}. The measure is the growth of anonymous
memory (RssAnon) from before the state exists to its peak while steps run.
"""

import json
import os
import sys
import threading
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
# glibc would keep freed memory for later and blur the measure.
os.environ.setdefault("MALLOC_ARENA_MAX", "1")


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


class Peak(threading.Thread):
    """Samples anonymous memory until stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.value = 0
        self.running = True

    def run(self):
        while self.running:
            self.value = max(self.value, anonymous())
            time.sleep(0.002)


def main() -> None:
    import gc

    import jax
    import jax.numpy as jnp

    from specialize.cost.plan import compiling, program
    from specialize.student.loss.losses import LossConfig
    from specialize.student.model import Student
    from specialize.student.network.transformer import T5Config, Transformer
    from specialize.training.data.spec import DataSpec
    from specialize.training.optimization.spec import OptimizerSpec

    config = T5Config(
        vocab_size=32128,
        emb_dim=1024,
        num_heads=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=64,
        mlp_dim=2048,
        mlp_activations=("gelu", "linear"),
    )
    lengths = {"inputs": 128, "targets": 64, "teacher_ids": 64}
    lowered = program.train_program(
        Student(Transformer(config), loss=LossConfig()),
        DataSpec(None, lengths, batch_size=8),
        OptimizerSpec("adamw", total_steps=10),
        jax.devices(),
    )
    compiled = lowered.lowered.compile()
    predicted = compiling.memory_of(compiled, lowered)
    state, healthy, batch = jax.tree.map(
        lambda leaf: leaf, lowered.lowered.args_info[0]
    )
    gc.collect()
    before = anonymous()
    peak = Peak()
    peak.start()
    # calloc'ed zeros would not be resident until written.
    make = lambda leaf: jnp.full(leaf.shape, 1e-3, leaf.dtype)  # noqa: E731
    state, batch = jax.tree.map(make, state), jax.tree.map(make, batch)
    healthy = jnp.ones((), bool)
    for _ in range(3):
        state, healthy, metrics = compiled(state, healthy, batch)
        jax.block_until_ready(metrics)
    peak.running = False
    peak.join()
    json.dump(
        {
            "predicted": predicted.total - predicted.program,
            "measured": peak.value - before,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
