"""Writes recipes/*.json: what every recipe sets and what that reaches, by run file.

    python tests/golden/make_recipe_snapshots.py            (no T5X needed)

Run it after a change of recipes that is meant, and read the difference: a line of it
is a value that real runs will take. A refactoring changes none.
"""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import recipe_goldens  # noqa: E402
import recipe_values  # noqa: E402

for run in recipe_values.RUNS:
    text = recipe_goldens.written(
        recipe_goldens.compressed(recipe_values.snapshots(run))
    )
    (HERE / "recipes" / f"{run}.json").write_text(text, encoding="utf-8")
    print(f"recipes/{run}.json: {len(text.splitlines())} lines")
