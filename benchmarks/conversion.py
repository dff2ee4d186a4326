"""How long a conversion takes, and how much memory it holds.

Makes a random T5 1.1 large (783M parameters, 2.9 GiB in float32) and converts it
through every format, each step in a process of its own, as `specialize convert` does,
and merges two of the results, as `specialize merge` does:

    python benchmarks/conversion.py --out /scratch/conversion

Prints one JSON row a step: seconds, and the largest anonymous memory (RssAnon: what
the process itself holds, without the pages of mapped files) above that of a bare
Python interpreter, sampled fifty times a second. The limit is 1 GiB. All fingerprints
must be equal, and the last folder's bytes those of the first.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import threading
import time
import zlib

import numpy as np

SIZES = {
    "small": dict(emb_dim=512, num_heads=6, num_encoder_layers=8, mlp_dim=1024),
    "large": dict(emb_dim=1024, num_heads=16, num_encoder_layers=24, mlp_dim=2816),
}

# (name, what it reads, options); each reads what an earlier one wrote. Two names are
# merged.
STEPS = [
    ("t5x", "hf", ["--to", "t5x"]),
    ("orbax_scanned", "t5x", ["--to", "orbax", "--layers", "scanned"]),
    ("t5x_scalable", "orbax_scanned", ["--to", "t5x", "--layers", "scalable"]),
    ("hf_again", "t5x_scalable", ["--to", "hf", "--activation", "gelu"]),
    ("hf_bfloat16", "hf", ["--to", "hf", "--dtype", "bfloat16"]),
    ("merged", "hf hf_bfloat16", ["--alpha", "0.5"]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="a new folder; needs 20 GB")
    parser.add_argument("--size", default="large", choices=sorted(SIZES))
    parser.add_argument(
        "--keep", action="store_true", help="keep the converted weights"
    )
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True)
    parameters = write_random(out / "hf", arguments.size)
    bare = peak_of([sys.executable, "-c", "import time; time.sleep(0.5)"])[1]
    fingerprints = set()
    for name, source, options in STEPS:
        paths = [str(out / one) for one in source.split()]
        given = ["merge", *paths] if len(paths) > 1 else ["convert", "--source", *paths]
        command = [sys.executable, "-m", "specialize", *given]
        command += ["--target", str(out / name), *options]
        seconds, peak, shown = peak_of(command)
        found = shown.split("fingerprint")[1].split()[0]
        if "bfloat16" not in name and name != "merged":
            fingerprints.add(found)
        row = {
            "step": f"{source} -> {name}",
            "parameters": parameters,
            "seconds": round(seconds, 1),
            "anonymous_mib_above_interpreter": round((peak - bare) / 1024),
            "fingerprint": found,
        }
        print(json.dumps(row), flush=True)
    assert len(fingerprints) == 1, fingerprints
    print(
        json.dumps(
            {
                "same_bytes": same_bytes(out / "hf", out / "hf_again"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("safetensors", "tensorstore", "orbax-checkpoint")
                },
            }
        )
    )
    if not arguments.keep:
        shutil.rmtree(out)


def write_random(folder: pathlib.Path, size: str) -> int:
    """Writes a random Hugging Face folder, one tensor in memory at a time."""
    from specialize.checkpoints import names
    from specialize.checkpoints.formats import huggingface, huggingface_companions
    from specialize.checkpoints.lazy_tensors import LazyTensor
    from specialize.student.network.architecture import T5Config

    sizes = SIZES[size]
    config = T5Config(
        vocab_size=32128,
        num_decoder_layers=sizes["num_encoder_layers"],
        mlp_activations=("gelu", "linear"),
        **sizes,
    )

    def random(name: str, shape: tuple[int, ...]) -> LazyTensor:
        def load(index: tuple[slice, ...]) -> np.ndarray:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            return rng.standard_normal(shape, np.float32)[index]

        return LazyTensor(shape, np.dtype(np.float32), load)

    tensors = {
        name: random(name, shape) for name, shape in names.shapes(config).items()
    }
    folder.mkdir()
    huggingface.write_weights(folder, tensors)
    huggingface_companions.write_settings(folder, config, "float32")
    return sum(tensor.size for tensor in tensors.values())


def peak_of(command: list[str]) -> tuple[float, int, str]:
    """Runs a command; returns seconds, its largest RssAnon in KiB, and its output."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon"):
                    peak[0] = max(peak[0], int(line.split()[1]))

    sampler = threading.Thread(target=sample)
    sampler.start()
    shown, _ = process.communicate()
    done.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak[0], shown


def same_bytes(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two folders' tensors are equal bit for bit, by their stored names."""
    from safetensors import safe_open

    one, two = (safe_open(f / "model.safetensors", "numpy") for f in (first, second))
    return set(one.keys()) == set(two.keys()) and all(
        one.get_tensor(name).tobytes() == two.get_tensor(name).tobytes()
        for name in one.keys()
    )


if __name__ == "__main__":
    main()
