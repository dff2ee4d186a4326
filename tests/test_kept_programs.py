"""Compiled programs are kept where no variable says otherwise, and found again."""

import os
import subprocess
import sys

import pytest

CODE = """
import jax, jax.numpy as jnp, warnings
warnings.simplefilter("error")
from specialize.paths import programs
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
programs.keep()
x = jnp.ones((8, 8))
for _ in range(3):
    x = jax.jit(lambda y: jnp.linalg.qr(y @ y.T + jnp.eye(8))[0])(x)
print(sum("cache_hit" in name for name in hits), float(x.sum()))
"""


def run(home, **variables):
    left_out = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "SPECIALIZE_CACHE_DIR")
    left_out += ("JAX_COMPILATION_CACHE_MAX_SIZE",)
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    kept |= {"HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not found.stderr, found.stderr
    hits, value = found.stdout.split()
    return int(hits), value


def test_the_second_process_finds_what_the_first_has_compiled(tmp_path):
    first = run(tmp_path)
    kept = list((tmp_path / ".cache/specialize/compiled").glob("*/*-cache"))
    assert kept
    second = run(tmp_path)
    assert second[0] > first[0]  # which finds its own, from the second turn on
    assert second[1] == first[1]


def test_what_a_killed_process_has_half_written_is_made_again(tmp_path):
    first = run(tmp_path)
    kept = sorted((tmp_path / ".cache/specialize/compiled").glob("*/*-cache"))
    whole = [path.read_bytes() for path in kept]
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
        path.with_name(path.name.replace("-cache", "-atime")).unlink()
        os.utime(path, (1, 1))
    assert run(tmp_path)[1] == first[1]
    assert [path.stat().st_size for path in kept] == [len(one) for one in whole]
    assert run(tmp_path)[0] > first[0]


def test_variables_win_and_a_cache_that_cannot_be_made_is_none(tmp_path):
    run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert list((tmp_path / "mine").glob("*-cache"))
    run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / ".cache").exists() or not list(
        (tmp_path / ".cache/specialize/compiled").rglob("*-cache")
    )
    (tmp_path / "file").touch()
    assert run(tmp_path, SPECIALIZE_CACHE_DIR=str(tmp_path / "file/x"))[0] == 0


@pytest.mark.parametrize("room", ["read-only", "full"])
def test_a_cache_without_room_costs_time_only(tmp_path, room):
    folder = tmp_path / "cache"
    folder.mkdir()
    if room == "full":
        variables = {"JAX_COMPILATION_CACHE_MAX_SIZE": "1"}  # smaller than any program
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folder.chmod(0o555)
        variables = {}
    hits, _ = run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(folder), **variables)
    assert hits == 0
