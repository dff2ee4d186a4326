"""One table of chips: what training measures against and what a plan computes with."""

import math

import pytest

from specialize import chips
from specialize.cost.plan import topologies


@pytest.mark.parametrize(
    "kind, name",
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("cpu", "cpu"),
    ],
)
def test_the_longest_prefix_of_jax_s_device_kind_decides(kind, name):
    found = chips.of_kind(kind)
    assert found is not None and found.name == name


def test_an_unknown_device_is_not_guessed():
    assert chips.of_kind("NVIDIA Z1") is None


def test_a_plan_is_made_for_every_chip_whose_memory_is_known_and_no_other():
    planned = ["v4", "v5e", "v5p", "v6e", "h100", "h200", "cpu"]
    assert list(chips.PLANNED) == planned
    assert topologies.parse("v5e:4x4").chip is chips.CHIPS["v5e"]
    for chip in chips.CHIPS.values():
        assert chip.peak_flops > 1e12 or chip.name == "cpu"
        assert chip.name == "cpu" or math.isnan(chip.hbm_bytes) == math.isnan(
            chip.bandwidth
        )
