"""What `train` would refuse is refused by the lint, and by the specification itself."""

import subprocess
import sys

import pytest
import tiny_run

from specialize import config
from specialize.errors import InputError
from specialize.evaluation.results import Results
from specialize.evaluation.spec import EvaluationSpec
from specialize.student.loss import diagnostics
from specialize.student.loss.spec import LossConfig
from specialize.training.loop.spec import PeriodicEvaluation
from specialize.training.rollouts.spec import RolloutSpec

FILES = ["recipes/tiny_gsm8k.gin"]
ENTRY = "specialize.training.loop.train.train"
OPTIONS = "specialize.training.optimization.spec.OptimizerSpec.options"
ON_POLICY = ("ON_POLICY_SHARE = 0.5", "ROLLOUT_TEACHER = 't'")
SERVED = ("ON_POLICY_SHARE = 0.5", "ROLLOUT_MODEL = 'm'", "ROLLOUT_PROBLEMS_PATH = 'p'")


def problems(*bindings, imports=False):
    found = config.read(FILES, ["MODEL_DIR = 'm'", *bindings], entry=ENTRY)
    return [str(problem) for problem in config.lint(found, imports=imports)]


@pytest.mark.parametrize("imports", [False, True])
@pytest.mark.parametrize(
    ("bindings", "said"),
    [
        ((f"{OPTIONS} = {{'weight_decay': 0.1}}",), "Set the field weight_decay"),
        ((f"{OPTIONS} = {{'zz': 1}}",), "adamw has no option 'zz'"),
        ((f"{OPTIONS} = {{'b1': 'x'}}",), "options['b1'] = 'x'"),
        (
            (
                *ON_POLICY,
                "ROLLOUT_WHOLE_VOCABULARY = True",
                "LOSS_MODE = 'renormalize'",
            ),
            "LOSS_MODE: loss mode 'renormalize' is for the K known",
        ),
        (
            (*SERVED, "ROLLOUT_SERVER = 'https://api.openai.com/v1'"),
            "OpenAI does not report the probabilities of a given text",
        ),
        (("SUITES = ('nosuch',)",), "unknown suite 'nosuch'"),
        (("SUITES = ('gsm8k', 'svmap')",), "Did you mean 'svamp'"),
        (("SUITES = ('gsm8k:zero_shot',)",), "Did you mean 'zero_shot_cot'?"),
        (("BEST_METRIC = 'gsm8k/accuracy'",), "nothing is measured. Set EVAL_SPLIT"),
        (
            ("BEST_METRIC = 'gsm8k/accuracyy'", "SUITES = ('gsm8k',)"),
            "Did you mean 'gsm8k/accuracy'?",
        ),
        (
            ("BEST_METRIC = 'held_out/zero_shot/kl'", "EVAL_SPLIT = 'validation'"),
            "held_out/zero_shot/kl' is not measured. These are: held_out/loss",
        ),
        (("BEST_METRIC = 'svamp/accuracy'", "SUITES = ('gsm8k',)"), "is not measured"),
    ],
)
def test_what_a_run_would_refuse_is_one_problem(bindings, said, imports):
    if imports:
        hold = "specialize_tasks.distill.held_out.fraction = 0.1"
        bindings = ("import specialize_tasks.distill", hold, *bindings)
    found = problems(*bindings, imports=imports)
    assert len(found) == 1 and said in found[0], found
    assert "--gin." in found[0]  # where it was set


def test_a_split_that_no_task_has_is_found():
    found = problems("EVAL_SPLIT = 'validation'", imports=True)
    assert len(found) == 1 and "no task of the mixture has this split" in found[0]
    assert "held_out.fraction is above 0" in found[0]
    hold = "specialize_tasks.distill.held_out.fraction = 0.1"
    more = ("import specialize_tasks.distill", hold)
    assert problems("EVAL_SPLIT = 'validation'", *more, imports=True) == []
    found = problems("EVAL_SPLIT = 'validaton'", *more, imports=True)
    assert len(found) == 1 and "EVAL_SPLIT = 'validaton'" in found[0]
    assert problems("EVAL_SPLIT = 'train'", imports=True) == []


@pytest.mark.parametrize(
    ("metric", "bindings"),
    [
        ("gsm8k/accuracy", ("SUITES = ('gsm8k',)",)),
        ("gsm8k/few_shot_cot/accuracy", ("SUITES = ('gsm8k:few_shot_cot',)",)),
        ("mas/accuracy", ("SUITES = ('math',)",)),
        ("bbh/navigate/accuracy", ("SUITES = ('bbh',)",)),
        ("bbh/accuracy", ("SUITES = ('bbh/navigate', 'bbh/snarks')",)),
        ("held_out/loss", ("EVAL_SPLIT = 'validation'",)),
        ("held_out/zero_shot_cot/kl", ("EVAL_SPLIT = 'validation'",)),
        ("held_out/on_policy/ce", ("EVAL_SPLIT = 'validation'", *ON_POLICY)),
        ("own/accuracy", ("SUITES = ('own',)", "TASKS = ('not/made/yet.toml',)")),
    ],
)
def test_what_is_measured_is_no_problem(metric, bindings):
    assert problems(f"BEST_METRIC = '{metric}'", *bindings) == []


@pytest.mark.parametrize(
    "suites", [("gsm8k",), ("math", "gsm8k:few_shot_cot"), ("bbh",)]
)
def test_the_metrics_that_a_specification_names_are_those_of_its_results(suites):
    spec = EvaluationSpec(suites)
    names = spec.metrics()
    keys = [n.removesuffix("/accuracy") for n in names if n.count("/") > 1]
    scores = {}
    for key in keys:
        suite, _, prompt = key.rpartition("/")
        if prompt in ("zero_shot_cot", "few_shot_cot"):
            scores[f"{suite}:{prompt}"] = {"accuracy": 0.5}
    found = Results({}, {}, scores, {}, {}).metrics()
    assert found.keys() == set(names)


def test_the_metrics_of_held_out_records_are_those_that_a_specification_names():
    names = diagnostics.names(LossConfig(z_loss=0.1), slots=3)
    evaluation = PeriodicEvaluation(split="validation")
    for name in names:
        evaluation.check_metric(f"held_out/{name}", [])
        evaluation.check_metric(f"held_out/more/{name}", ["more"])
        with pytest.raises(InputError, match="is not measured"):
            evaluation.check_metric(f"held_out/other/{name}", ["more"])


def test_a_served_teacher_that_cannot_score_is_refused_where_it_is_named():
    for host in ("api.openai.com", "api.mistral.ai"):
        with pytest.raises(InputError, match="Name such a server"):
            RolloutSpec(server=f"https://{host}/v1")
    assert RolloutSpec(server="http://localhost:8000/v1").server


def test_the_lint_of_these_rules_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys\n"
        "from specialize import config\n"
        "bound = ['MODEL_DIR = \\'m\\'', 'BEST_METRIC = \\'bbh/accuracy\\'',"
        " 'SUITES = (\\'bbh\\',)', 'EVAL_SPLIT = \\'validation\\'',"
        f" '{OPTIONS} = {{\\'b1\\': 0.5}}']\n"
        f"found = config.read({FILES!r}, bound, entry={ENTRY!r})\n"
        "assert config.lint(found, imports=False) == []\n"
        "assert not {'jax', 'tensorflow', 'seqio', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_refuses_a_metric_that_nothing_measures(tmp_path):
    for evaluation in ({}, {"split": "validation"}):
        with pytest.raises(InputError, match="best_metric = 'gsm8k/accuracyy'"):
            tiny_run.run(
                *(tmp_path / "run", 2),
                checkpoints={"best_metric": "gsm8k/accuracyy"},
                evaluation=evaluation,
            )
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("imports", [False, True])
@pytest.mark.parametrize(
    ("macro", "value"),
    [
        ("PART_WEIGHTS", "{'more': -1}"),
        ("PART_WEIGHTS", "{'other': 1}"),
        ("PART_WEIGHTS", "[1]"),
        ("EMA_DECAY", "1"),
        ("EMA_DECAY", "1.5"),
        ("JSD_BETA", "2"),
        ("ON_POLICY_SHARE", "-1"),
    ],
)
def test_an_error_is_said_of_the_value_that_it_is_about(macro, value, imports):
    mixture = "MIXTURE_OR_TASK_NAME = {'a/corpus': 1, 'more': 1}"
    found = problems(mixture, f"{macro} = {value}", imports=imports)
    [about] = [one for one in found if one.partition(": ")[2].startswith(f"{macro}: ")]
    assert about.startswith(f"--gin.{macro}: ") and "most 1." not in about
