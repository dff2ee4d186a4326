"""The table of docs/how-to/plan.md, from the compiler; run it as a script.

Needs the extra `plan`. Every answer of the compiler is cached, so a second run takes
seconds; `--only xxl` makes some rows only and leaves the rest as they are cached.
"""

import argparse
import json
import pathlib
import re

from specialize.cost.plan import estimates, topologies

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "plan.md"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"

# (recipe, topology, values on top of the recipe)
ADAFACTOR = {"OPTIMIZER": "adafactor"}
BY_SIZE = [
    *(("base", chips, {}) for chips in ("v5e:4x4", "v5p:2x2x1", "v4:2x2x1")),
    *(("large", chips, {}) for chips in ("v5e:4x4", "v5p:2x2x1", "v4:2x2x2")),
    *(("xl", chips, {}) for chips in ("v5e:4x8", "v5p:2x2x1", "v4:2x2x2")),
    *(("xxl", chips, {}) for chips in ("v5e:4x8", "v5e:4x4", "v5p:2x2x2", "v4:2x2x4")),
    *(("xxl", chips, ADAFACTOR) for chips in ("v5e:4x8", "v5p:2x2x2", "v4:2x2x4")),
]
LENGTHS = {
    name: 1024 if name == "inputs" else 256
    for name in (
        "inputs targets teacher_ids teacher_probs teacher_tail format_id".split()
    )
}
ISSUE = {"TASK_FEATURE_LENGTHS": LENGTHS, "DROPOUT_RATE": 0.1}
XXL = [
    ("xxl", "v5e:16x4", {**ISSUE, "BATCH_SIZE": 128}),
    ("xxl", "v5e:16x4", {**ISSUE, "BATCH_SIZE": 128, **ADAFACTOR}),
    ("xxl", "v5e:4x8", {**ISSUE, "BATCH_SIZE": 64}),
    ("xxl", "v5e:4x4", {**ISSUE, "BATCH_SIZE": 32}),
    ("xxl", "v5e:4x4", {**ISSUE, "BATCH_SIZE": 32, **ADAFACTOR}),
    ("xxl", "v5e:2x4", {**ISSUE, "BATCH_SIZE": 16, **ADAFACTOR}),
]
# `recipes/ablations/lora.gin`.
LORA = {
    **{**ISSUE, "BATCH_SIZE": 8, "LEARNING_RATE": 1e-3},
    **{"LORA_RANK": 16, "LORA_ALPHA": 32.0, "LORA_DROPOUT": 0.05},
}
ONE_CHIP = {"data": 1, "fsdp": 1, "model": 1}
ADAPTERS = [
    ("xxl", "v5e:2x2", {**LORA, "MESH": {"data": 1, "fsdp": 1, "model": 4}}),
    ("xxl", "v5p:1x1x1", {**LORA, "MESH": ONE_CHIP}),
    # `recipes/ablations/qlora.gin`, and the other kinds of codes.
    *(
        ("xxl", "v5e:1x1", {**LORA, "MESH": ONE_CHIP, "LORA_QUANTIZE_BASE": kind})
        for kind in ("nf4", "int4", "int8")
    ),
]
NARROW = {**ISSUE, "BATCH_SIZE": 8, "PARAM_DTYPE": "bfloat16"}
LEAN = [
    ("xl", "v5e:1x1", {**NARROW, **ADAFACTOR, "MESH": ONE_CHIP}),
    ("xl", "v5e:1x2", {**NARROW, "OPTIMIZER": "adamw_8bit"}),
]
TABLES = {"xxl": XXL, "sizes": BY_SIZE, "adapters": ADAPTERS, "lean": LEAN}
HEAD = (
    "| model | optimizer | slice | mesh | batch | remat | state | temporaries "
    "| total | peak | fits | s/step | hours |"
)


def line(size: str, found: estimates.Row, base: str | None) -> str:
    """One row of the table; GiB a chip. `base` is how frozen weights are stored."""
    memory, used = found.verdict.memory, found.verdict.used
    state = temporaries = "-"
    if memory is not None:
        state = f"{(memory.params + memory.optimizer) / 2**30:.2f}"
        rest = memory.temporaries + memory.batch + memory.program
        temporaries = f"{rest / 2**30:.2f}"
    mesh = " ".join(f"{k}={v}" for k, v in found.mesh.items() if v > 1)
    cells = [
        f"Flan-T5 {size}",
        found.optimizer
        + ", LoRA" * (found.trained < found.parameters)
        + (f" on {base}" if base else ""),
        found.topology,
        mesh,
        f"{found.batch_size} x {found.lengths['inputs']}/{found.lengths['targets']}",
        found.remat_policy,
        state,
        temporaries,
        "?" if used is None else f"{used / 2**30:.2f}",
        "-" if found.verdict.peak is None else f"{found.verdict.peak / 2**30:.2f}",
        "yes" if found.verdict.fits else "no",
        "-" if found.step_seconds is None else f"{found.step_seconds:.2f}",
        "-" if found.hours is None else f"{found.hours:,.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Compiles what is not cached and rewrites the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose text contains this")
    parser.add_argument("--print", action="store_true", help="leave the page alone")
    flags = parser.parse_args()
    topologies.prepare(topologies.parse("v5e:2x2"))
    page = PAGE.read_text(encoding="utf-8")
    for name, wanted in TABLES.items():
        lines = [HEAD, re.sub(r"[^|]+", "---", HEAD)]
        for size, chips, values in wanted:
            label = f"{name} {size} {chips} {json.dumps(values)}"
            if flags.only and flags.only not in label:
                continue
            request = estimates.Request(
                gin_files=(f"recipes/flan_t5_{size}.gin",),
                bindings=(),
                search_paths=(),
                topology=topologies.parse(chips),
            )
            row = estimates.train_row(request, **values)
            lines.append(line(size, row, values.get("LORA_QUANTIZE_BASE")))
            print(lines[-1], flush=True)
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = page.split(begin)
        page = before + begin + "\n" + "\n".join(lines) + "\n" + end
        page += rest.split(end, 1)[1]
    if not flags.print and not flags.only:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
