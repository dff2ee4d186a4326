"""A plan counts a teacher on the mesh, whose weights need not be on this machine."""

import dataclasses
import functools
import math

import jax
import pytest
import tiny_run

from specialize import sharding
from specialize.config import scanning
from specialize.cost.plan import compiling, program, rollouts, topologies
from specialize.cost.plan.compiling import Verdict
from specialize.cost.plan.program import Memory
from specialize.errors import InputError
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.model import Student
from specialize.student.network.transformer import Transformer
from specialize.training.data import packing
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput
from specialize.training.loop import train
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.rollouts.spec import RolloutSpec

LENGTHS = {"inputs": 64, "targets": 32}
TEACHER = "google/flan-t5-xl"
STUDENT = tiny_run.student


def student(**fields):
    network = dataclasses.replace(rollouts.network_of("flan-t5-base"), **fields)
    return Student(Transformer(network))


def teacher_and_flops(share, mesh=None, **fields):
    """Bytes of a teacher on one chip, and FLOPs besides those of learning."""
    model, spec = student(dtype="bfloat16"), RolloutSpec(share, **fields)
    data = DataSpec("m", LENGTHS, 8, rollouts=spec)
    teacher, size = rollouts.teacher_of(model, data), None
    if mesh is not None:
        weights = rollouts.weights(teacher, sharding.read_mesh(mesh))
        size = program.bytes_per_chip(weights)
    return size, rollouts.flops(model, data, teacher)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher that is larger than the student."""
    folder = tmp_path_factory.mktemp("teacher") / "weights"
    return tiny_run.base(folder, rows=tiny_run.BYTES, width=32)


class Lowered(Exception):
    """`train` has lowered its step."""


@pytest.fixture
def lowered(monkeypatch, tmp_path):
    """(the step of a tiny run as `train` lowers it, the program that is planned)."""
    real, lower, seen = train.train, train.lower_step, {}

    def started(model, data, optimizer, **options):
        seen.update(model=model, data=data, optimizer=optimizer, mesh=options["mesh"])
        return real(model, data, optimizer, **options)

    def only_lowered(*arguments):
        seen["step"] = lower(*arguments)[1]
        raise Lowered

    def both(*, rows=tiny_run.K, dtype="float32", **options):
        wide = functools.partial(STUDENT, dtype=dtype)
        monkeypatch.setattr(tiny_run, "student", wide)
        with pytest.raises(Lowered):
            tiny_run.run(tmp_path / "run", 1, **options)
        step, data, mesh = (seen.pop(name) for name in ("step", "data", "mesh"))
        of_rows = dict.fromkeys(packing.TEACHER_FEATURES if rows else (), 12)
        data = dataclasses.replace(data, feature_lengths=tiny_run.LENGTHS | of_rows)
        devices = jax.devices()[: math.prod(map(int, mesh.split("x")))]
        planned = program.train_program(
            **seen, data=data, mesh=mesh, devices=devices, teacher_k=rows or 5
        )
        return step, planned

    monkeypatch.setattr(train, "train", started)
    monkeypatch.setattr(train, "lower_step", only_lowered)
    monkeypatch.setattr(train, "create_state", lambda *_: None)
    return both


WHOLE = {"whole_vocabulary": True}
MORE = {"data": {"microbatches": 2}, "adapters": {"rank": 2}, "scan_layers": True}


@pytest.mark.parametrize(
    ("rollouts", "options"),
    [
        (None, {}),
        ({"top_k": 2}, {}),
        ({"top_k": 9}, {"rows": 0, "mesh": "2x2"}),
        (WHOLE, {"loss": {"mode": "jsd"}}),
        (WHOLE, {"rows": 0, "mesh": "1x2x2", "dtype": "bfloat16", **MORE}),
    ],
)
def test_the_step_that_is_planned_is_the_one_that_train_compiles(
    rollouts, options, lowered, teacher, tmp_path
):
    options = dict(options)
    if rollouts is not None:
        options["rollouts"] = {"share": 0.5, "teacher": teacher, **rollouts}
    if options.get("rows") == 0:
        mixture = tiny_run.mixture(teacher=False)
        options["data"] = {"mixture": mixture, **options.get("data", {})}
    if "adapters" in options:
        start = tiny_run.base(tmp_path / "start", rows=tiny_run.BYTES)
        options["initial_checkpoint_path"] = start
    step, planned = lowered(**options)
    assert planned.lowered.as_text() == step.as_text()
    assert planned.in_step == (rollouts == WHOLE)
    assert (planned.teacher > 0) == (rollouts is not None)


def test_a_teacher_that_reads_in_the_step_is_counted_once(lowered, teacher):
    options = {"share": 0.5, "teacher": teacher}
    _, rows = lowered(rollouts=options)
    assert rows.beside == rows.teacher > 0
    step, planned = lowered(rollouts={**options, **WHOLE})
    assert (planned.teacher, planned.beside) == (rows.teacher, 0)
    found = compiling.judge(planned, topologies.parse("cpu:1"), cache=False)
    assert compiling.with_more(found, math.inf, teacher=planned.beside) == found
    real, memory = step.compile().memory_analysis(), found.memory
    # A part of the batch that is not used is no argument of what is compiled.
    arguments = real.argument_size_in_bytes
    assert 0 <= planned.arguments - arguments < planned.batch
    parts = memory.params, memory.optimizer, memory.batch, memory.teacher
    assert memory.teacher == planned.teacher and sum(parts) == arguments
    assert found.used == memory.total >= arguments + real.temp_size_in_bytes


@pytest.mark.parametrize(
    ("rows", "loss", "said"),
    [
        (tiny_run.BYTES + 28, {}, "has 412 vocabulary rows, the student has 384"),
        (tiny_run.BYTES, {"mode": "paper"}, "'paper' is for the K known"),
    ],
)
def test_a_plan_refuses_what_train_refuses(rows, loss, said, tmp_path):
    other = tiny_run.base(tmp_path / "teacher", rows=rows)
    spec = RolloutSpec(0.5, teacher=other, **WHOLE)
    with pytest.raises(InputError, match=said):
        program.train_program(
            tiny_run.student(rows=tiny_run.BYTES, loss=loss),
            DataSpec("m", LENGTHS, 8, rollouts=spec),
            OptimizerSpec(total_steps=9),
            jax.devices()[:1],
        )


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
    whole, _ = teacher_and_flops(0.5, {"data": 1}, teacher=TEACHER)
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
    assert whole == 2 * params
    mesh = {"data": 1, "fsdp": 2, "model": 4}
    split, _ = teacher_and_flops(0.5, mesh, teacher=TEACHER)
    assert whole / 8 <= split < whole / 6


def test_writing_and_reading_cost_a_forward_pass_each_of_their_share():
    lengths = LENGTHS.values()
    forward = throughput.training_flops(student().module.config, 8, *lengths) / 3
    read = throughput.training_flops(rollouts.network_of(TEACHER), 8, *lengths) / 3
    for share in (0.25, 1.0):
        _, found = teacher_and_flops(share, teacher=TEACHER)
        assert found == pytest.approx(share * (forward + read))
        # Within the step the teacher reads the examples of the corpus, too.
        _, found = teacher_and_flops(share, teacher=TEACHER, whole_vocabulary=True)
        assert found == pytest.approx(share * forward + read)
    served = {"server": "http://h/v1", "model": "m", "problems_path": "p.jsonl"}
    assert teacher_and_flops(0.5, **served)[1] == pytest.approx(forward / 2)
    for fields in ({}, {"teacher": TEACHER, "whole_vocabulary": True}):
        assert teacher_and_flops(0.0, **fields)[1] == 0.0


def test_a_student_with_adapters_writes_with_all_its_weights():
    """Its training has fewer products of the frozen ones, its forward pass has not."""
    adapters = AdapterSpec(rank=2, targets=("query", "wo"))
    data = DataSpec("m", LENGTHS, 8, rollouts=RolloutSpec(1.0, teacher=TEACHER))
    plain, adapted = student(), student(adapters=adapters)
    without, found = (rollouts.flops(one, data, None) for one in (plain, adapted))
    assert without < found < 1.01 * without
    sizes = (8, *LENGTHS.values())
    learning = throughput.training_flops(plain.module.config, *sizes)
    assert learning == pytest.approx(3 * without)
    assert throughput.training_flops(adapted.module.config, *sizes) < learning


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
