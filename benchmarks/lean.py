"""Loss curves of full training in less memory, side by side; run it as a script.

    specialize quickstart --prepare --out own/world
    python benchmarks/lean.py --quickstart own/world --out own/lean

Trains the quickstart's specialist on the same batches with each of `WAYS` and prints a
Markdown table: the training loss (nats per target token) of each way at each log line,
its mean and largest difference from float32, and the state's bytes per parameter, from
the checkpoint. A run that is complete is not repeated.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np

from specialize.checkpoints import step_folder

NARROW = {"PARAM_DTYPE": "bfloat16"}
TO_NEAREST = {**NARROW, "STOCHASTIC_ROUNDING": False}
EIGHT_BIT = {"OPTIMIZER": "adamw_8bit"}
# Label -> what it sets on top of the recipe; the first is what the others are compared
# with.
WAYS = {
    "float32": {},
    "bfloat16, stochastic": NARROW,
    "bfloat16, to nearest": TO_NEAREST,
    "8-bit moments": EIGHT_BIT,
    "bfloat16, stochastic, 8-bit moments": {**NARROW, **EIGHT_BIT},
}


def main() -> None:
    """Trains and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quickstart", required=True, help="folder of --prepare")
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--log_period", type=int, default=20)
    flags = parser.parse_args()
    world, out = pathlib.Path(flags.quickstart), pathlib.Path(flags.out)
    common = {
        "CORPUS_DIR": str(world / "corpus"),
        "VOCABULARY_PATH": str(world / "vocabulary.model"),
        "INITIAL_CHECKPOINT_PATH": str(world / "base"),
        "OPTIMIZER": "adamw",
        "LEARNING_RATE": flags.learning_rate,
        "TRAIN_STEPS": flags.steps,
        "LOG_PERIOD": flags.log_period,
    }
    curves, sizes = {}, {}
    for number, (label, values) in enumerate(WAYS.items()):
        folder = out / str(number)
        bindings = {**common, **values, "MODEL_DIR": str(folder)}
        command = [sys.executable, "-m", "specialize", "train"]
        command += ["--gin_file", "recipes/quickstart_study.gin"]
        command += [f"--gin.{name}={value!r}" for name, value in bindings.items()]
        subprocess.run(command, check=True)
        curves[label] = losses(folder)
        sizes[label] = bytes_per_parameter(folder, flags.steps)
    print(table(curves, sizes))


def losses(folder: pathlib.Path) -> dict[int, float]:
    """Step -> training loss since the line before."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train"]["loss"] for line in lines if "train" in line}


def bytes_per_parameter(folder: pathlib.Path, step: int) -> float:
    """Bytes of weights and moments in the checkpoint, per weight."""
    _, saved = step_folder.read_metadata(folder / "checkpoints" / str(step))
    sizes = {name: np.prod(one.shape, dtype=np.int64) for name, one in saved.items()}
    held = sum(sizes[n] * jnp.dtype(one.dtype).itemsize for n, one in saved.items())
    return held / sum(size for name, size in sizes.items() if "params" in name)


def table(curves: dict[str, dict[int, float]], sizes: dict[str, float]) -> str:
    """The table, in Markdown."""
    labels = list(curves)
    steps = list(curves[labels[0]])
    rows = [["step", *labels], ["---"] * (len(labels) + 1)]
    rows += [[str(s), *(f"{curves[one][s]:.4f}" for one in labels)] for s in steps]
    first = np.array([curves[labels[0]][s] for s in steps])
    away = {n: np.array([curves[n][s] for s in steps]) / first - 1 for n in labels}
    rows.append(["mean difference", *(f"{away[n].mean():+.2%}" for n in labels)])
    rows.append(["largest", *(f"{np.abs(away[n]).max():.2%}" for n in labels)])
    rows.append(["bytes per weight", *(f"{sizes[n]:.2f}" for n in labels)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
