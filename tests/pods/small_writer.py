"""A command that writes a corpus and checkpoints of four steps into a bucket.

    python small_writer.py URL

It resumes from what is there, like `train`, and ends with status 2 and one message if
the store fails. `check` compares what is in the bucket with what was to be written.
"""

import os
import sys

import numpy as np

from specialize import cli, outputs, paths
from specialize.errors import InputError
from specialize.paths import store as objects

FILES = {f"part-{n}": bytes([n]) * 3000 for n in range(4)}
LAST = 4


def state(step):
    import jax.numpy as jnp

    return {"params": {"a": jnp.full((64, 64), step, "float32"), "b": jnp.arange(3)}}


def write(url):
    from specialize.checkpoints.store import CheckpointStore

    if outputs.kind_of(f"{url}/corpus") is None:
        with outputs.staged_directory(f"{url}/corpus", "corpus", replace=True) as new:
            for name, data in FILES.items():
                (new / name).write_bytes(data)
    with outputs.working_folder(f"{url}/run", "run", but=["checkpoints/*"]) as working:
        with CheckpointStore(f"{url}/run/checkpoints", keep=2) as store:
            first = 0
            if store.latest() is not None:
                first = store.restore(None, state(0))[1]["step"]
            log = working.path / "log"
            kept = log.read_text().splitlines()[:first] if log.exists() else []
            log.write_text("".join(f"{line}\n" for line in kept))
            for step in range(first + 1, LAST + 1):
                with open(log, "a") as file:
                    file.write(f"{step}\n")
                working.publish(now=True)
                store.save(step, state(step), {})


def check(url, *, complete):
    """Reads all that a reader would trust; it must be what was written."""
    from specialize.checkpoints.store import CheckpointStore

    try:
        corpus = paths.local(f"{url}/corpus")
    except InputError as error:
        assert "is not complete" in str(error) or "does not exist" in str(error)
        assert not complete, error
    else:
        for name, data in FILES.items():
            assert (corpus / name).read_bytes() == data
    log = objects.read_bytes(f"{url}/run/log") or b""
    steps = log.decode().splitlines()
    assert steps == [str(n + 1) for n in range(len(steps))]
    with CheckpointStore(f"{url}/run/checkpoints", read_only=True) as store:
        found = store.steps()
        for step in found:
            values, _ = store.restore(step, state(0), or_older=False)
            np.testing.assert_array_equal(values["params"]["a"], step)
    if complete:
        assert found == [LAST - 1, LAST] and len(steps) == LAST


def register(subparsers):
    command = subparsers.add_parser("write")
    command.add_argument("url")
    command.set_defaults(run=lambda flags: write(flags.url))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cli.ROOMS = ("__main__",)
    sys.exit(cli.main(["write", *sys.argv[1:]]))
