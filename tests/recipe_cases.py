"""The recipes, the run files each of them is meant for, and what a launch adds."""

from specialize.config import scanning

FOLDER = scanning.package_folder()
RECIPES = FOLDER / "recipes"
MODELS = sorted(p.stem for p in (FOLDER / "models").glob("*.gin"))
EVALUATIONS = sorted(p.name for p in RECIPES.glob("evaluate_*.gin"))
EVALUATIONS.append("tiny_evaluate.gin")
QUICKSTART = sorted(p.name for p in RECIPES.glob("quickstart*.gin"))
TRAININGS = sorted(
    {p.name for p in RECIPES.glob("*.gin")} - {*EVALUATIONS, *QUICKSTART}
)
ABLATIONS = sorted(p.name for p in (RECIPES / "ablations").glob("*.gin"))
SIZES = ("base", "large", "xl", "xxl")

TRAIN_RUNS = ("train", "t5x_train")
EVALUATION_RUNS = ("evaluate", "infer", "sample", "t5x_evaluate", "t5x_infer")

# What whoever launches a recipe says on the command line.
LAUNCH = (
    "MODEL_DIR = 'run'",
    "INITIAL_CHECKPOINT_PATH = 'weights'",
    "OUTPUT_DIR = 'out'",
    "CHECKPOINT_PATH = 'checkpoint'",
)
# As T5X wants it for evaluation: one suite a run.
ONE_SUITE = ("SUITES = ('gsm8k',)",)
# What `specialize quickstart` adds to its recipes.
QUICKSTART_LAUNCH = ("TRAIN_STEPS = 500", "WARMUP_STEPS = 20", *ONE_SUITE)


def combinations(sizes_of_ablations=SIZES) -> list[tuple[str, ...]]:
    """Every training recipe, and every ablation on sizes it is meant for."""
    found: list[tuple[str, ...]] = [(f"recipes/{name}",) for name in TRAININGS]
    for ablation in ABLATIONS:
        own = [size for size in SIZES if ablation.endswith(f"_{size}.gin")]
        sizes = own or sizes_of_ablations
        for size in sizes:
            found.append(
                (f"recipes/flan_t5_{size}.gin", f"recipes/ablations/{ablation}")
            )
    return found


def quickstart_run(name: str) -> str:
    """The run file that a recipe of the quickstart is for."""
    return "evaluate" if "evaluate" in name else "train"


def evaluation(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Gin files and bindings with which a recipe evaluates, on either engine."""
    model = ("models/flan_t5_xl.gin",) if name.startswith("evaluate") else ()
    bindings = ONE_SUITE if name in TRAININGS else ()
    return (*model, f"recipes/{name}"), bindings
