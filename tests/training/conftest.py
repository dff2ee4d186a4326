import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def start():
    """Starts tiny_run.py as a process: `start(model_dir=..., steps=...)`."""
    import json

    running = []

    def run(devices=1, **options):
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(HERE.parent.parent),
        }
        process = subprocess.Popen(
            [sys.executable, str(HERE.parent / "tiny_run.py"), json.dumps(options)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def same_parameters():
    """Asserts that two {name: array} agree, to `atol` or bit by bit."""

    def check(one, other, atol=None):
        assert one.keys() == other.keys()
        for name in one:
            if atol is None:
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)
            else:
                np.testing.assert_allclose(
                    one[name], other[name], rtol=0, atol=atol, err_msg=name
                )

    return check
