"""T5X's rules of logical axes and ours, which its run files cannot share, agree."""

import pytest

pytest.importorskip("t5x.partitioning")

import flax.linen
from t5x import partitioning

from specialize import sharding
from specialize.config import neutral

# Named by T5X's own networks only.
THEIRS_ALONE = {"abspos_buckets"}
# Of adapters, which T5X's run file refuses.
OURS_ALONE = {"lora_rank"}
# Arrays of more than one axis; a norm's scale T5X splits over model, we over fsdp.
ARRAYS = [
    ("batch", "length", "embed"),
    ("batch", "length", "mlp"),
    ("embed", "layers", "mlp"),
    ("joined_kv", "embed"),
    ("vocab", "embed"),
    ("heads", "relpos_buckets"),
]


def ours(mesh: dict[str, int]) -> list[tuple[str, str | None]]:
    """`DEFAULT_RULES` in T5X's words: data and fsdp are its one axis "data"."""
    t5x_axis = {"model": "model", "data": "data"}
    if neutral.parameter_dims(mesh) == 2:
        t5x_axis["fsdp"] = "data"
    rules = []
    for name, axes in sharding.DEFAULT_RULES:
        if name in OURS_ALONE:
            continue
        several = axes if isinstance(axes, tuple) else (axes,)
        # A batch is divided over axes that T5X has as one.
        known = dict.fromkeys(t5x_axis[axis] for axis in several if axis in t5x_axis)
        rules += [(name, axis) for axis in known]
        if axes is None:
            rules.append((name, None))
    return rules


@pytest.mark.parametrize("mesh", [{"data": 4}, {"data": 2, "fsdp": 2, "model": 2}])
def test_t5x_splits_the_same_logical_axes_over_the_same_kind_of_device_axis(mesh):
    theirs = partitioning.standard_logical_axis_rules(
        activation_partitioning_dims=2,
        parameter_partitioning_dims=neutral.parameter_dims(mesh),
    )
    theirs = [rule for rule in theirs if rule[0] not in THEIRS_ALONE]
    assert sorted(ours(mesh), key=str) == sorted(theirs, key=str)
    for axes in ARRAYS:
        assert flax.linen.logical_to_mesh_axes(
            axes, ours(mesh)
        ) == flax.linen.logical_to_mesh_axes(axes, theirs)
