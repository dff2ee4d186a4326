"""A plan counts a teacher on the mesh, whose weights need not be on this machine."""

import dataclasses

import jax
import pytest

from specialize import sharding
from specialize.config import scanning
from specialize.cost.plan import compiling, rollouts
from specialize.cost.plan.compiling import Verdict
from specialize.cost.plan.program import Memory
from specialize.errors import InputError
from specialize.student.model import Student
from specialize.student.network.transformer import Transformer
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput
from specialize.training.rollouts.spec import RolloutSpec

LENGTHS = {"inputs": 64, "targets": 32}
TEACHER = "google/flan-t5-xl"


def student(**fields):
    network = dataclasses.replace(rollouts.network_of("flan-t5-base"), **fields)
    return Student(Transformer(network))


def extra(share, mesh, **fields):
    spec = RolloutSpec(share, **fields)
    data = DataSpec("m", LENGTHS, 8, rollouts=spec)
    return rollouts.of_run(student(dtype="bfloat16"), data, sharding.read_mesh(mesh))


def test_every_model_of_ours_is_known_by_its_name():
    folder = scanning.package_folder() / "models"
    for file in folder.glob("*.gin"):
        hub = f"somebody/{file.stem.replace('_', '-')}"
        assert rollouts.network_of(hub).emb_dim > 0
    assert (
        rollouts.network_of("google/t5-v1_1-xl".replace("v1_1", "1.1")).emb_dim == 2048
    )
    with pytest.raises(InputError, match="network is not known here"):
        rollouts.network_of("./nobody/knows-this")


def test_a_teachers_weights_are_split_as_the_students_and_kept_in_its_type():
    network = rollouts.network_of(TEACHER)
    whole = extra(0.5, {"data": 1}, teacher=TEACHER)
    params = sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(
                lambda key: Student(Transformer(network)).get_initial_variables(
                    key,
                    {"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 8)},
                ),
                jax.random.key(0),
            )["params"]
        )
    )
    assert whole.teacher == 2 * params
    split = extra(0.5, {"data": 1, "fsdp": 2, "model": 4}, teacher=TEACHER)
    assert whole.teacher / 8 <= split.teacher < whole.teacher / 6


def test_writing_and_reading_cost_a_forward_pass_each_of_their_share():
    lengths = LENGTHS.values()
    forward = throughput.training_flops(student().module.config, 8, *lengths) / 3
    read = throughput.training_flops(rollouts.network_of(TEACHER), 8, *lengths) / 3
    for share in (0.25, 1.0):
        found = extra(share, {"data": 1}, teacher=TEACHER).flops
        assert found == pytest.approx(share * (forward + read))
    served = {"server": "http://h/v1", "model": "m", "problems_path": "p.jsonl"}
    found = extra(0.5, {"data": 1}, **served)
    assert (found.teacher, found.flops) == (0, pytest.approx(forward / 2))
    assert extra(0.0, {"data": 1}) == rollouts.Rollouts(0, 0.0)


def test_a_step_that_fits_may_not_fit_beside_a_teacher():
    memory = Memory(params=10, optimizer=20, batch=1, temporaries=30, program=2)
    alone = Verdict(True, memory, 63, 60, None, 1.0, False, "compiler")
    assert compiling.with_more(alone, 64) == alone
    for teacher, fits in ((1, True), (2, False)):
        found = compiling.with_more(alone, 64, teacher=teacher)
        assert (found.fits, found.used, found.memory.total) == (
            fits, 63 + teacher, 63 + teacher,
        )  # fmt: skip
    lost = dataclasses.replace(alone, fits=False, memory=None, used=None)
    assert compiling.with_more(lost, 64, teacher=5) == lost
