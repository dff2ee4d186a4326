"""Every spelling of a mesh means the same to the engine, to T5X and to the lint."""

import jax
import pytest

from specialize import sharding
from specialize.config import neutral
from specialize.errors import InputError
from specialize.mesh import AXES, MeshSpec

SPELLINGS = [
    (None, (8, 1, 1)),
    ({}, (8, 1, 1)),
    ({"data": -1, "model": 4}, (2, 1, 4)),
    ({"fsdp": -1, "data": 1}, (1, 8, 1)),
    ({"model": 2}, (4, 1, 2)),
    ("2x4", (2, 1, 4)),
    (" 2x4 ", (2, 1, 4)),
    ("2x2x2", (2, 2, 2)),
    ("1x-1x4", (1, 2, 4)),
    ("8", (8, 1, 1)),
    ("-1", (8, 1, 1)),
    ("data=2,model=4", (2, 1, 4)),
    ("data=2 fsdp=4", (2, 4, 1)),
    ("", (8, 1, 1)),
]
BAD = [
    ([2, 4], "it gives data, fsdp, model"),
    (8, "it gives data, fsdp, model"),
    (True, "it gives data, fsdp, model"),
    ("two by four", "it gives data, fsdp, model"),
    ("data=2,data=2", "it gives data, fsdp, model"),
    ("2x2x2x2", "it gives data, fsdp, model"),
    ({"data": 2, "modle": 2}, "Did you mean 'model'"),
    ({3: 2}, "it gives data, fsdp, model"),
    ("data=2,modle=4", "Did you mean 'model'"),
    ({"data": -1, "fsdp": -1}, "one at most is -1"),
    ({"fsdp": -1}, "one at most is -1"),
    ("-1x-1", "one at most is -1"),
    ({"data": 0}, "sizes are positive"),
    ({"data": 2.0}, "sizes are positive"),
    ({"data": "2"}, "sizes are positive"),
    ({"data": True}, "sizes are positive"),
]


@pytest.mark.parametrize(("value", "shape"), SPELLINGS)
def test_every_spelling_makes_a_mesh(value, shape):
    mesh = sharding.read_mesh(value)
    assert dict(mesh.shape) == dict(zip(AXES, shape, strict=True))
    assert sharding.read_mesh(mesh) is mesh


@pytest.mark.parametrize(("value", "shape"), SPELLINGS)
def test_every_spelling_reaches_t5x_without_touching_a_device(
    value, shape, monkeypatch
):
    monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("a device was touched"))
    assert neutral.model_partitions(value) == shape[2]
    assert neutral.parameter_dims(value) == (1 if shape[1] == 1 else 2)


@pytest.mark.parametrize(("value", "said"), BAD)
@pytest.mark.parametrize(
    "read", [sharding.read_mesh, neutral.model_partitions, neutral.parameter_dims]
)
def test_what_is_no_mesh_is_one_error_that_shows_the_value(read, value, said):
    with pytest.raises(InputError) as caught:
        read(value)
    assert said in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "devices", "exact", "said"),
    [
        ("2x4", 4, False, "needs 8 devices; there are 4"),
        ("2x4", 16, True, "needs 8 devices; there are 16"),
        ({"model": 3}, 8, False, "needs a multiple of 3 devices; there are 8"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(value, devices, exact, said):
    with pytest.raises(InputError, match=said):
        MeshSpec.read(value).fit(devices, exact=exact)


def test_one_process_may_use_some_of_its_devices():
    assert sharding.read_mesh("2x2").size == 4 < len(jax.devices())
