"""What a step costs whose targets the student writes itself, beside one on fixed data.

    python on_policy.py --shape small --share 1.0

Both train the network of a shape of `specialize bench` on the synthetic stream of the
four-format mixture, from the same weights: a student that was trained until it ends its
texts about where the stream does. The teacher on the mesh has the student's size. Runs
alternate; the ratio is that of the medians of their log lines, and the lines in which
programs are compiled are left out.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

import numpy as np

from specialize.checkpoints.spec import CheckpointSpec
from specialize.cost.bench import stream
from specialize.cost.bench.cases import student
from specialize.cost.bench.shapes import shape_named
from specialize.training.data.mixtures import Mixture
from specialize.training.data.spec import DataSpec
from specialize.training.logging.spec import LoggingSpec
from specialize.training.loop.train import train
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.rollouts.spec import RolloutSpec


def mixture(shape):
    sizes = stream.example_lengths(
        "all", 4000, (shape.input_length, shape.target_length)
    )
    found = stream.examples(sizes, shape)
    features = found.features
    # Few pieces, whose frequencies are learnt in some steps, EOS among them.
    features["targets"] %= 64
    features["targets"] += 3
    for side, part in enumerate(("inputs", "targets")):
        features[part][found.starts[part] + sizes[:, side] - 1] = 1  # EOS
    features["teacher_ids"][:, 0] = features["targets"]
    order = np.argsort(-features["teacher_probs"], axis=1)
    features["teacher_probs"] = np.take_along_axis(
        features["teacher_probs"], order, axis=1
    )
    return Mixture("bench", [found], [1.0])


def run(shape, folder, total_steps, period, **rollouts):
    lengths = {"inputs": shape.input_length, "targets": shape.target_length}
    spec = RolloutSpec(vocabulary_path="byt5", **rollouts)
    train(
        student(shape),
        DataSpec(mixture(shape), lengths, shape.batch, rollouts=spec),
        OptimizerSpec(
            "adafactor",
            learning_rate=2e-2,
            schedule="constant",
            total_steps=100_000,
            warmup_steps=1,
        ),
        model_dir=folder,
        total_steps=total_steps,
        initial_checkpoint_path=rollouts.get("teacher"),
        mesh="1",
        checkpoints=CheckpointSpec(period=100_000),
        logging=LoggingSpec(period, tensorboard=False, peak_flops=1e12),
    )
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--shape", default="small")
    flags.add_argument("--share", type=float, default=1.0)
    flags.add_argument("--batch_size", type=int, default=64)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--steps", type=int, default=24)
    flags.add_argument("--period", type=int, default=6)
    flags.add_argument("--warm_up", type=int, default=60)
    given = flags.parse_args()
    shape = shape_named(given.shape)
    times = {"fixed": [], "on-policy": []}
    last = {}
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        run(shape, root / "warm", given.warm_up, given.warm_up)
        teacher = str(root / "warm")
        kinds = {"fixed": {}, "on-policy": {"share": given.share, "teacher": teacher}}
        for number in range(given.rounds):
            for kind, fields in kinds.items():
                if fields:
                    # A window for each line, so that every line has its share.
                    fields |= {"batch_size": given.batch_size, "steps": given.period}
                folder = root / f"{kind}-{number}"
                lines = run(shape, folder, given.steps, given.period, **fields)
                times[kind] += [x["speed"]["seconds_per_step"] for x in lines[1:]]
                last[kind] = lines[-1]
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    found = {
        "shape": given.shape,
        "share": given.share,
        "seconds_per_step": medians,
        "ratio": medians["on-policy"] / medians["fixed"],
        "tokens_per_text": last["on-policy"]["train"]["on_policy/length"],
        "left_out": last["on-policy"]["train"]["on_policy/left_out"],
        "writing_seconds": last["on-policy"]["speed"]["writing_seconds"],
        "scoring_seconds": last["on-policy"]["speed"]["scoring_seconds"],
        "padding": {kind: line["padding"] for kind, line in last.items()},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
