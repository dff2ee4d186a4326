"""What is listed of a folder by one process alone changes the choice of none."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
from etils import epath

from specialize import processes
from specialize.checkpoints import step_folder
from specialize.checkpoints.formats import step_choice
from specialize.errors import InputError
from specialize.processes import listing


@pytest.fixture
def lists(monkeypatch):
    """Changes what each process lists: a function of its number and of the names."""
    from jax._src import distributed

    real = os.listdir

    def lag(change):
        def listed(path="."):
            names = [name for name in real(path) if name.isdigit()]
            return change(distributed.global_state.process_id, names) or names

        monkeypatch.setattr(os, "listdir", listed)

    return lag


@pytest.mark.parametrize("seed", range(8))
def test_a_listing_that_lags_changes_the_steps_of_no_process(
    together, lists, tmp_path, seed
):
    random, count = np.random.default_rng(seed), 2 + seed % 3
    steps = sorted(int(step) for step in random.choice(99, 6, replace=False))
    for step in steps:
        (tmp_path / str(step)).mkdir()
    newest = str(steps[-1])
    hidden = {n: set(map(str, random.choice(steps, 4))) for n in range(count)}
    hidden[0] -= {newest}  # at least one process has listed it
    hidden[count - 1] |= {newest}
    lists(lambda n, names: [one for one in names if one not in hidden[n]])
    listed = set().union(*(set(map(str, steps)) - one for one in hidden.values()))
    found = together(lambda _: step_folder.steps_of_all(tmp_path), count)
    assert found == [sorted(map(int, listed))] * count and steps[-1] in found[0]


def test_a_step_that_was_removed_after_it_was_listed_is_none(together, lists, tmp_path):
    (tmp_path / "4").mkdir()
    lists(lambda number, names: [*names, "2"] if number == 1 else names)
    began = time.monotonic()
    found = together(lambda _: step_folder.steps_of_all(tmp_path), 3)
    assert found == [[4]] * 3 and time.monotonic() - began < 5


def test_a_step_that_one_process_sees_late_is_waited_for(
    together, tmp_path, monkeypatch
):
    monkeypatch.setattr(listing, "_PAUSE", 0.05)
    for step in ("0/2", "0/4", "1/2"):
        (tmp_path / step).mkdir(parents=True)

    def call(number):
        if number == 1:
            threading.Timer(0.3, (tmp_path / "1/4").mkdir).start()
        return step_folder.steps_of_all(tmp_path / str(number))

    assert together(call, 2) == [[2, 4]] * 2


def _orbax(folder):
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "_METADATA").touch()


def _t5x(folder):
    folder.mkdir(parents=True)
    (folder / "checkpoint").touch()


@pytest.mark.parametrize(
    ("make", "names", "at"),
    [
        (_orbax, ("checkpoints/2", "checkpoints/4"), ""),
        (_orbax, ("checkpoints/2", "checkpoints/4"), "checkpoints"),
        (_t5x, ("checkpoint_2", "checkpoint_4"), ""),
    ],
)
@pytest.mark.parametrize("first_lags", [False, True])
def test_process_0_chooses_the_newest_checkpoint_for_all(
    together, tmp_path, make, names, at, first_lags, monkeypatch
):
    """The others may have it elsewhere, and not list it."""
    from jax._src import distributed

    for number, name in itertools.product(range(3), names):
        make(tmp_path / str(number) / name)
    real = step_choice.step_in

    def step_in(path):
        newest = real(path)
        lags = (distributed.global_state.process_id == 0) == first_lags
        return newest.parent / names[0].rpartition("/")[2] if lags else newest

    monkeypatch.setattr(step_choice, "step_in", step_in)
    found = together(
        lambda n: step_choice.step_of_all(epath.Path(tmp_path / str(n) / at)), 3
    )
    chosen = names[0] if first_lags else names[1]
    assert list(map(str, found)) == [str(tmp_path / str(n) / chosen) for n in range(3)]


def test_what_process_0_chooses_or_refuses_is_one_message_if_another_cannot(
    together, tmp_path, monkeypatch
):
    monkeypatch.setattr(listing, "LOOKED", 0.1)
    _orbax(tmp_path / "0/checkpoints/4")
    (tmp_path / "1").mkdir()

    def choose(number):
        return step_choice.step_of_all(epath.Path(tmp_path / str(number)))

    said = together(choose, 2)
    assert len(set(said)) == 1
    assert "checkpoints/4 is seen by process 0 of 2, but not by process 1" in said[0]

    def refuse(path):
        raise InputError("not finished")

    monkeypatch.setattr(step_choice, "step_in", refuse)
    assert together(choose, 2) == ["not finished"] * 2
    gone = epath.Path(tmp_path / "gone")
    monkeypatch.setattr(step_choice, "step_in", lambda path: gone / "checkpoints/4")
    said = together(lambda _: step_choice.step_of_all(gone), 2)
    assert len(set(said)) == 1 and "was removed after process 0" in said[0]


def test_weights_on_all_processes_are_those_that_process_0_chooses(
    tmp_path, monkeypatch
):
    """Weights on the devices of one process are its own matter."""
    from specialize import sharding
    from specialize.checkpoints import load_params, merging
    from specialize.inference.loaded import load
    from specialize.inference.weights import abstract_weights, load_student
    from specialize.student.model import Student
    from specialize.student.network.architecture import T5Config
    from specialize.student.network.transformer import Transformer

    class Asked(Exception):
        pass

    def asked(path):
        raise Asked

    monkeypatch.setattr(step_choice, "step_of_all", asked)
    network = Student(Transformer(T5Config(384, emb_dim=8, num_heads=2, head_dim=4)))
    (tmp_path / "none").mkdir()
    name = str(tmp_path / "none")
    known = abstract_weights(network, sharding.make_mesh())
    calls = (
        lambda: load_params(name, known),
        lambda: load_student(network, name),
        lambda: load(name, vocabulary="byt5"),
        lambda: merging.load_mean([name, name], [0.5, 0.5], known, activation="gelu"),
    )
    for on_all, error in ((True, Asked), (False, InputError)):
        monkeypatch.setattr(processes, "of_all", lambda devices, on=on_all: on)
        for call in calls:
            with pytest.raises(error):
                call()
