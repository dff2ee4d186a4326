"""A checkpoint is chosen on validation, tested once, and the choice written down.

The students here are real and stored as a run stores them, but say one digit each,
whatever they are asked: how often it is right follows from the files alone.
"""

import dataclasses
import functools
import json
import os
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specialize import cli
from specialize.checkpoints import merging, names
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.evaluation import pareto
from specialize.evaluation.suites import loading
from specialize.inference.engine import Engine
from specialize.quickstart import miniature
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer

# Step -> what its student says. On GSM8K 7 is right most often, on the others 5.
SAYS = {100: 5, 200: 7, 300: 7, 400: 3}
OTHERS = ("multiarith", "asdiv", "svamp")
WITH_PROMPT = "svamp:zero_shot_answer_only"

NETWORK = T5Config(
    vocab_size=256,
    emb_dim=8,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=8,
    mlp_activations=("gelu", "linear"),
    logits_via_embedding=False,
)
RECIPE = """
from __gin__ import dynamic_registration
from specialize.student import network

network.T5Config:
  vocab_size = 256
  emb_dim = 8
  num_heads = 1
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 4
  mlp_dim = 8
  mlp_activations = ('gelu', 'linear')
  logits_via_embedding = False

SUITES = ('gsm8k', 'mas')
PROMPT = 'zero_shot_answer_only'
SCAN_LAYERS = False
DTYPE = 'float32'
EVAL_BATCH_SIZE = 3
INPUT_LENGTH = 16
MESH = {'data': 1}
OUTPUT_LENGTH = 1
"""


@functools.cache
def zeros():
    """The tree of the network's weights, all 0; nothing is compiled for it."""
    ones = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        lambda: Transformer(NETWORK).init(
            jax.random.key(0), ones, ones, ones, enable_dropout=False
        )
    )
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])


def saying(token: int):
    """Weights whose every output is one token: all is 0 but what leads to it."""
    params = jax.tree.map(jnp.asarray, zeros())
    params["token_embedder"]["embedding"] += 1.0
    params["decoder"]["decoder_norm"]["scale"] += 1.0
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, token].set(1.0)
    return params


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)))


def write_benchmarks(folder):
    golds = [(7, 7, 7, 5, 3)[n % 5] for n in range(40)]
    for split in ("train", "test"):
        write(
            folder / f"gsm8k/{split}.jsonl",
            *(
                {"question": f"{split} {n}?", "answer": f"It is.\n#### {gold}"}
                for n, gold in enumerate(golds)
            ),
        )
    golds = [(5, 5, 5, 7, 3)[n % 5] for n in range(30)]
    write(
        folder / "multiarith/MultiArith.json",
        [
            {"iIndex": n, "sQuestion": f"Sum {n}?", "lSolutions": [float(gold)]}
            for n, gold in enumerate(golds)
        ],
    )
    write(
        folder / "svamp/SVAMP.json",
        [
            {"ID": f"chal-{n}", "Body": f"{n} left", "Question": "How?", "Answer": gold}
            for n, gold in enumerate(golds)
        ],
    )
    (folder / "asdiv").mkdir()
    problems = [
        f'<Problem ID="n-{n}"><Body>It is {n}.</Body><Question>How many?</Question>'
        f"<Answer>{gold} (x)</Answer></Problem>"
        for n, gold in enumerate(golds)
    ]
    (folder / "asdiv/ASDiv.xml").write_text("<a>" + "".join(problems) + "</a>")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that kept four checkpoints, the benchmarks, and a recipe to ask them."""
    folder = tmp_path_factory.mktemp("kept")
    write_benchmarks(folder / "benchmarks")
    text = folder / "text.txt"
    text.write_text("\n".join(f"the answer is {n % 10} ." for n in range(40)))
    path = miniature.train_vocabulary(text, folder / "spiece.model")
    vocabulary = Vocabulary(path)
    with CheckpointStore(folder / "run" / "checkpoints", keep=4) as store:
        for step, digit in SAYS.items():
            [token] = vocabulary.encode(str(digit))
            store.save(step, {"params": saying(token)}, {})
    (folder / "recipe.gin").write_text(RECIPE)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """Counts the prompts that are decoded."""
    counted = []
    generate = Engine.generate

    def counting(self, *args, **kwargs):
        for answer in generate(self, *args, **kwargs):
            counted.append(answer)
            yield answer

    monkeypatch.setattr(Engine, "generate", counting)
    return counted


def select(kept, by, out):
    words = [
        *("select", "--by", by, "--json", str(kept / f"{by}.json")),
        *("--gin_file", str(kept / "recipe.gin")),
        f"--gin.CHECKPOINT_PATH='{kept / 'run'}'",
        f"--gin.BENCHMARKS_DIR='{kept / 'benchmarks'}'",
        f"--gin.VOCABULARY_PATH='{kept / 'spiece.model'}'",
        f"--gin.OUTPUT_DIR='{out}'",
    ]
    assert cli.main(words) == 0
    return json.loads((kept / f"{by}.json").read_text())


@pytest.fixture(scope="module")
def out(kept):
    return kept / "selection"


@pytest.fixture(scope="module")
def chosen(kept, out):
    """The choices by each suite or group, made in one folder, one after the other."""
    return {by: select(kept, by, out) for by in ("gsm8k", "mas", WITH_PROMPT)}


def expected(kept, suite, split, digit):
    """The share of a split's golds that are this digit, from the files alone."""
    loaded = loading.load_suite(suite, kept / "benchmarks", split=split)
    golds = [str(example.golds[0]).split()[0] for example in loaded.examples]
    return sum(float(gold) == digit for gold in golds) / len(golds)


def test_the_best_on_gsm8ks_validation_is_chosen_not_the_last(kept, chosen):
    choice = chosen["gsm8k"]
    accuracies = {
        int(step): score["accuracy"] for step, score in choice["validation"].items()
    }
    assert accuracies == pytest.approx(
        {
            step: expected(kept, "gsm8k", "validation", digit)
            for step, digit in SAYS.items()
        }
    )
    assert accuracies[200] == max(accuracies.values()) > accuracies[400]
    assert choice["step"] == 200 and choice["by"] == "gsm8k"
    assert "gsm8k" in choice["rule"] and choice["checkpoint"].endswith("/200")


def test_of_equally_good_checkpoints_the_earliest_is_chosen(chosen):
    choice = chosen["gsm8k"]
    validation = choice["validation"]
    assert validation["200"] == validation["300"]
    assert choice["step"] == 200


def test_by_mas_the_best_out_of_distribution_is_chosen(kept, chosen):
    choice = chosen["mas"]
    means = {
        step: sum(expected(kept, suite, "validation", digit) for suite in OTHERS) / 3
        for step, digit in SAYS.items()
    }
    assert {
        int(step): score["accuracy"] for step, score in choice["validation"].items()
    } == pytest.approx(means)
    assert choice["step"] == max(means, key=means.get) == 100
    assert "multiarith, asdiv, svamp" in choice["rule"]


def test_only_the_chosen_ones_are_tested(chosen, out):
    tested = {int(one.name) for one in (out / "test").iterdir()}
    assert tested == {choice["step"] for choice in chosen.values()} == {100, 200}


def test_every_choice_has_a_file(chosen, out):
    for by, choice in chosen.items():
        file = out / f"choice_{by.replace(':', '.')}.json"
        assert json.loads(file.read_text()) == choice


def test_a_suite_may_be_named_with_its_prompt(kept, chosen):
    choice = chosen[WITH_PROMPT]
    assert (choice["by"], choice["step"]) == (WITH_PROMPT, 100)
    score = choice["validation"]["100"]
    assert score["accuracy"] == expected(kept, "svamp", "validation", SAYS[100])


@pytest.mark.parametrize("by", ["gsm8k", "mas"])
def test_the_score_of_the_chosen_one_is_the_test_splits(kept, chosen, by):
    choice = chosen[by]
    assert choice["test"]["settings"]["split"] == "test"
    for suite in ("gsm8k", *OTHERS):
        score = choice["test"]["suites"][f"{suite}:zero_shot_answer_only"]
        right = expected(kept, suite, "test", SAYS[choice["step"]])
        assert score["accuracy"] == pytest.approx(right)


def ids(path):
    return {json.loads(line)["id"] for line in path.read_text().splitlines()}


def test_no_example_that_chose_is_tested(chosen, out):
    name = "gsm8k.zero_shot_answer_only.jsonl"
    choice = chosen["gsm8k"]
    [asked] = {
        frozenset(ids(found)) for found in (out / "validation").glob(f"*/{name}")
    }
    tested = ids(out / "test" / str(choice["step"]) / name)
    assert len(asked) == choice["validation"]["200"]["n"] == round(40 * 500 / 1319)
    assert not asked & tested and len(asked | tested) == 40


def test_a_selection_that_was_cut_off_decodes_only_what_is_missing(
    kept, chosen, out, decoded, tmp_path
):
    choice = chosen["gsm8k"]
    again = tmp_path / "again"
    shutil.copytree(out, again)
    (again / "choice_gsm8k.json").unlink()
    shutil.rmtree(again / "test")
    [raw] = (again / "validation/400/decoded").glob("gsm8k.*.jsonl")
    lines = raw.read_text().splitlines(keepends=True)
    raw.write_text("".join(lines[:-3]) + lines[-3][:9])  # a batch less, and a torn line
    found = select(kept, "gsm8k", again)
    tests = sum(score["n"] for score in choice["test"]["suites"].values())
    assert len(decoded) == 3 + tests
    assert found["step"] == choice["step"]
    assert found["validation"] == choice["validation"]
    for name in ("suites", "averages", "settings"):
        assert found["test"][name] == choice["test"][name]


def test_a_selection_that_is_done_decodes_nothing(kept, chosen, out, decoded):
    again = select(kept, "mas", out)
    assert not decoded
    assert again["validation"] == chosen["mas"]["validation"]
    assert again["test"]["suites"] == chosen["mas"]["test"]["suites"]


# The start says 5 and the newest checkpoint 3: of a merge the larger share decides.
def weigh(kept, out, *more, start=None):
    words = [
        *("select", "--by", "pareto", "--json", str(out / "pareto.json")),
        *("--target", "gsm8k", "--retain", "svamp", *more),
        *("--start", str(start or kept / "run/checkpoints/100")),
        *("--gin_file", str(kept / "recipe.gin"), "--gin.SUITES=('gsm8k', 'svamp')"),
        f"--gin.CHECKPOINT_PATH='{kept / 'run'}'",
        f"--gin.BENCHMARKS_DIR='{kept / 'benchmarks'}'",
        f"--gin.VOCABULARY_PATH='{kept / 'spiece.model'}'",
        f"--gin.OUTPUT_DIR='{out / 'selection'}'",
    ]
    status = cli.main(words)
    file = out / "pareto.json"
    return status, json.loads(file.read_text()) if file.exists() else None


@pytest.fixture(scope="module")
def weighed(kept, tmp_path_factory):
    """The choice if nothing may be lost, and if everything may."""
    out = tmp_path_factory.mktemp("weighed")
    also = "--also", str(kept / "run/checkpoints/200"), "--alphas", "0.2:0.6:0.2"
    return {lose: weigh(kept, out, "--lose", lose, *also)[1] for lose in ("0", "100")}


def test_pareto_scores_the_start_checkpoints_merges_and_others(kept, weighed):
    found = {one["name"]: one for one in weighed["100"]["candidates"]}
    says = {
        "start": 5,
        "alpha_0.2": 5,
        "alpha_0.4": 5,
        "alpha_0.6": 3,
        "run_checkpoints_200": 7,
    }
    says |= {f"step_{step}": digit for step, digit in SAYS.items()}
    assert list(found)[:4] == ["start", "alpha_0.2", "alpha_0.4", "alpha_0.6"]
    assert found.keys() == says.keys()
    for name, digit in says.items():
        for part, suite in (("target", "gsm8k"), ("retain", "svamp")):
            wanted = expected(kept, suite, "validation", digit)
            assert found[name][part]["accuracy"] == pytest.approx(wanted), name
    front = {name for name, one in found.items() if one["front"]}
    best = max(one["target"]["accuracy"] for one in found.values())
    for name, one in found.items():
        dominated = any(
            other["target"]["accuracy"] >= one["target"]["accuracy"]
            and other["retain"]["accuracy"] >= one["retain"]["accuracy"]
            and (other["target"], other["retain"]) != (one["target"], one["retain"])
            for other in found.values()
        )
        assert (name in front) == (not dominated)
    assert weighed["100"]["candidates"][0]["lost"] == 0
    assert found[weighed["100"]["chosen"]]["target"]["accuracy"] == best


def test_pareto_takes_what_keeps_enough_and_tests_it_once(weighed):
    for lose, choice in weighed.items():
        kept_enough = [
            one for one in choice["candidates"] if one["lost"] <= float(lose)
        ]
        [chosen] = [one for one in kept_enough if one["name"] == choice["chosen"]]
        assert chosen["target"]["accuracy"] == max(
            one["target"]["accuracy"] for one in kept_enough
        )
        assert choice["test"]["settings"]["split"] == "test"
        assert f"at most {lose} points of svamp" in choice["rule"]
    assert weighed["0"]["chosen"] != weighed["100"]["chosen"]


ALPHAS = (0.50000012, 0.3000001, 0.3000002, 0.7, 1e-7, 1 / 3, 0.1 + 0.2, 1 - 2**-53)


def test_the_printed_command_writes_exactly_the_chosen_merge(kept, tmp_path):
    run = kept / "run"
    rule = pareto.Rule(start=str(run / "checkpoints/100"), alphas=ALPHAS)
    found = [c for c in pareto._candidates(str(run), rule) if len(c.parts) > 1]
    assert [one.parts[1][1] for one in found] == [*ALPHAS]
    assert len({one.name for one in found}) == len(ALPHAS)
    assert "alpha_0.7" in [one.name for one in found]
    for one in found:
        words = shlex.split(pareto._command(one, "gelu"))
        alpha = words[words.index("--alpha") + 1]
        (asked,) = merging.requested(2, str(tmp_path / "m"), alpha, None)
        assert asked[1] == [weight for _, weight in one.parts]
        assert words[2:4] == [path for path, _ in one.parts]


def test_a_report_draws_the_choice(kept, weighed, tmp_path):
    from specialize.evaluation.report.report import report

    folder = kept / "run" / "selection"
    folder.mkdir()
    (folder / "choice_pareto.json").write_text(json.dumps(weighed["100"]))
    try:
        report([kept / "run"], tmp_path / "r.html", base=None)
    except InputError:
        (kept / "run/metrics.jsonl").write_text('{"step": 1, "train": {"kl": 1.0}}\n')
        report([kept / "run"], tmp_path / "r.html", base=None)
    finally:
        shutil.rmtree(folder)
    page = (tmp_path / "r.html").read_text()
    assert "Choice between two abilities" in page
    assert "at most 100 points of svamp" in page and "alpha_0.4" in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--lose", "101"), "lose = 101.0; it must be"),
        (("--lose", "nan"), "lose = nan"),
        (("--alphas", "0:2:1"), "--alphas 2 is outside"),
        (("--alphas", "0:1:0.3"), "--alphas 0:1:0.3: the steps end at 0.9"),
        (("--also", "nowhere/at/all"), "nowhere/at/all"),
        (("--retain", "svam"), "Did you mean 'svamp'"),
        (("--target", "math"), "a group without an average"),
    ],
)
def test_a_weighing_that_cannot_be_is_one_message(kept, tmp_path, capsys, more, said):
    status, found = weigh(kept, tmp_path, *more)
    assert (status, found) == (2, None)
    assert said in capsys.readouterr().err


@pytest.fixture
def unusable(kept, tmp_path):
    """Checkpoints that no student of the recipe can be loaded from, by name."""

    def network(name, **changes):
        folder = tmp_path / name
        folder.mkdir()
        config = dataclasses.replace(NETWORK, **changes)
        tensors = {n: from_array(np.zeros(s)) for n, s in names.shapes(config).items()}
        huggingface.write_weights(folder, tensors, max_shard_bytes=10**9)
        huggingface_companions.write_settings(folder, config, "float64")
        return folder

    def damaged(name, file, content):
        [place] = shutil.copytree(
            kept / "run/checkpoints/200", tmp_path / name / "checkpoints/200"
        ).rglob(file)
        place.write_text(content)
        return tmp_path / name / "checkpoints/200"

    deep = network("deep", num_encoder_layers=2)
    cut = network("cut")
    os.truncate(cut / "model.safetensors", 200)
    return {
        "deep": (deep, "does not fit the network"),
        "cut": (cut, "cut"),
        "wide": (network("wide", emb_dim=16), "does not fit the network"),
        # It fits alone, but is no start of the run.
        "gate": (network("gate", mlp_activations=("silu", "linear")), "different net"),
        "average": (f"{kept / 'run/checkpoints/200'}#ema", "EMA_DECAY"),
        "table": (damaged("table", "_METADATA", "{"), "200"),
    }


@pytest.mark.parametrize("name", ["deep", "cut", "wide", "average", "table"])
def test_a_candidate_that_cannot_be_loaded_is_named_before_others_are_decoded(
    kept, unusable, tmp_path, capsys, decoded, name
):
    path, said = unusable[name]
    out = tmp_path / "out"
    status, found = weigh(kept, out, "--also", str(path))
    error = capsys.readouterr().err
    assert (status, found) == (2, None) and error.count("error:") == 1
    assert said in error and str(path).removesuffix("#ema") in error
    assert not decoded and not out.exists()


@pytest.mark.parametrize("name", ["deep", "cut", "gate"])
def test_a_merge_that_cannot_be_made_is_named_before_others_are_decoded(
    kept, unusable, tmp_path, capsys, decoded, name
):
    path, said = unusable[name]
    out = tmp_path / "out"
    status, found = weigh(kept, out, "--alphas", "0.5", start=path)
    error = capsys.readouterr().err
    assert (status, found) == (2, None) and error.count("error:") == 1
    assert str(path) in error and said in error
    assert not decoded and not out.exists()


def test_a_damaged_step_is_named_before_others_are_decoded(
    kept, tmp_path, capsys, decoded
):
    run = shutil.copytree(kept / "run/checkpoints", tmp_path / "run/checkpoints")
    for file in (run / "400").rglob("_METADATA"):
        file.write_text("{")
    words = [
        *("select", "--by", "gsm8k", "--gin_file", str(kept / "recipe.gin")),
        f"--gin.CHECKPOINT_PATH='{tmp_path / 'run'}'",
        f"--gin.BENCHMARKS_DIR='{kept / 'benchmarks'}'",
        f"--gin.VOCABULARY_PATH='{kept / 'spiece.model'}'",
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "400" in error and not decoded


def test_options_of_a_weighing_are_refused_without_it(kept, capsys):
    words = ["select", "--lose", "3", "--gin_file", str(kept / "recipe.gin")]
    assert cli.main(words) == 2
    assert "--lose is for --by pareto" in capsys.readouterr().err


@pytest.mark.parametrize("mesh", ["None", "'3x1'", "'data=3,model=1'"])
@pytest.mark.parametrize("command", ["evaluate", "select", "infer"])
def test_a_mesh_may_be_spelled_in_every_way_that_trains(
    kept, tmp_path, command, mesh, monkeypatch
):
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[:3])
    (tmp_path / "prompts.txt").write_text("What is 1 + 1?\n")
    asked = f"--prompts={tmp_path / 'prompts.txt'}", f"--out={tmp_path / 'out.jsonl'}"
    words = [
        *(command, *(asked if command == "infer" else ())),
        *("--gin_file", str(kept / "recipe.gin"), f"--gin.MESH={mesh}"),
        f"--gin.CHECKPOINT_PATH='{kept / 'run'}'",
        f"--gin.VOCABULARY_PATH='{kept / 'spiece.model'}'",
        f"--gin.BENCHMARKS_DIR='{kept / 'benchmarks'}'",
        f"--gin.OUTPUT_DIR='{tmp_path / 'evaluated'}'",
        "--gin.SUITES=('gsm8k',)",
        "--gin.MAX_EXAMPLES=3",
    ]
    assert cli.main(words) == 0


def test_a_folder_without_checkpoints_is_refused(kept, capsys, tmp_path):
    (tmp_path / "recipe.gin").write_text(RECIPE)
    (tmp_path / "run").mkdir()
    words = [
        *("select", "--gin_file", str(tmp_path / "recipe.gin")),
        f"--gin.CHECKPOINT_PATH='{tmp_path / 'run'}'",
        f"--gin.BENCHMARKS_DIR='{kept / 'benchmarks'}'",
        f"--gin.VOCABULARY_PATH='{kept / 'spiece.model'}'",
    ]
    assert cli.main(words) == 2
    assert "has no checkpoints to choose from" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["..", ".", "./..", "../..", "/", "#", "a/..", "//x"])
def test_a_candidate_has_a_name_that_stays_in_its_folder(path, monkeypatch, tmp_path):
    (tmp_path / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one" / "two")
    name = pareto._name_of(path)
    assert name and "/" not in name and name not in (".", "..")
    assert pareto._name_of("runs/student#ema") == "runs_student_ema"
