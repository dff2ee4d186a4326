"""T5X's evaluator and our judge give the same figures for the same outputs.

T5X evaluates real files of MultiArith, ASDiv, SVAMP and BBH's 27 tasks, cut short,
with a student that says one word whatever it is asked, so that many of the scores are
neither 0 nor 1. What it wrote down is then judged by `specialize evaluate
--predictions`.
"""

import json
import re

import numpy as np
import pytest

pytest.importorskip("t5x.eval")

from specialize.checkpoints import names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.checkpoints.lazy_tensors import from_array
from specialize.corpus.tasks.known import shipped
from specialize.corpus.vocabulary import Vocabulary
from specialize.judging.answers import HOWS
from specialize.student.network.architecture import T5Config

COUNT = 100
NETWORK = dict(
    vocab_size=32128,
    emb_dim=8,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=8,
    mlp_activations=("gelu", "linear"),
    logits_via_embedding=False,
)
RECIPE = "\n".join(
    [
        "from __gin__ import dynamic_registration",
        "from specialize.student import network",
        *(f"network.T5Config.{name} = {value!r}" for name, value in NETWORK.items()),
        "SPLIT = 'all'",
        "SCAN_LAYERS = False",
        "DTYPE = 'float32'",
        "INPUT_LENGTH = 32",
        "OUTPUT_LENGTH = 1",
        "EVAL_BATCH_SIZE = 50",
        "PROMPT = 'zero_shot_answer_only'",
    ]
)
# Group asked -> the student's word, and suites where that is right now and then.
ASKED = {
    "mas": ("4", ("multiarith", "asdiv", "svamp")),
    "bbh": ("No", tuple(f"bbh/{t}" for t in ("navigate", "web_of_lies"))),
    "bbh:few_shot_answer_only": (
        "A",
        tuple(f"bbh/{t}" for t in ("date_understanding", "snarks", "ruin_names")),
    ),
}


@pytest.fixture(scope="module")
def files(shared_data, tmp_path_factory):
    """The owners' files with their first problems only."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("multiarith/MultiArith.json", "svamp/SVAMP.json"):
        (folder / name).parent.mkdir()
        records = json.loads((shared_data / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(records[:COUNT]))
    text = (shared_data / "asdiv/ASDiv.xml").read_text(encoding="utf-8")
    problems = re.findall(r"<Problem .*?</Problem>", text, re.DOTALL)[:COUNT]
    (folder / "asdiv").mkdir()
    (folder / "asdiv/ASDiv.xml").write_text(f"<a>{''.join(problems)}</a>")
    (folder / "bbh/bbh").mkdir(parents=True)
    for task in shipped("bbh").subtasks:
        path = shared_data / f"bbh/bbh/{task}.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record["examples"] = record["examples"][: COUNT // 5]
        (folder / f"bbh/bbh/{task}.json").write_text(json.dumps(record))
    (folder / "bbh/cot-prompts").symlink_to(shared_data / "bbh/cot-prompts")
    (folder / "recipe.gin").write_text(RECIPE)
    return folder


def student(word, vocabulary, folder):
    """A T5X checkpoint whose every output is one word, again and again."""
    [token] = Vocabulary(vocabulary).encode(word)
    config = T5Config(**NETWORK)
    tensors = {}
    for name, shape in names.shapes(config).items():
        values = np.zeros(shape, np.float32)
        if name == "token_embedder/embedding" or name == "decoder/decoder_norm/scale":
            values += 1
        elif name == "decoder/logits_dense/kernel":
            values[:, token] = 1
        tensors[name] = from_array(values)
    (folder / "hf").mkdir()
    huggingface.write_weights(folder / "hf", tensors)
    huggingface_companions.write_settings(folder / "hf", config, "float32")
    convert(
        str(folder / "hf"), str(folder / "t5x"), to="t5x", vocabulary=str(vocabulary)
    )
    return folder / "t5x" / "checkpoint_0"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("asked", ASKED)
def test_the_figures_of_t5xs_evaluator_are_ours(
    asked, files, shared_data, run, tmp_path
):
    word, sometimes_right = ASKED[asked]
    vocabulary = shared_data / "t5/spiece.model"
    prompt = asked.partition(":")[2] or "zero_shot_answer_only"
    shown = {
        "CHECKPOINT_PATH": str(student(word, vocabulary, tmp_path)),
        "BENCHMARKS_DIR": str(files),
        "VOCABULARY_PATH": str(vocabulary),
        "SUITES": (asked,),
        "OUTPUT_DIR": str(tmp_path / "evaluated"),
    }
    run(
        "t5x.eval",
        "--gin_file=t5x_configs/runs/t5x_evaluate.gin",
        f"--gin_file={files / 'recipe.gin'}",
        *(f"--gin.{name}={value!r}" for name, value in shown.items()),
    )
    suites = (
        [f"bbh/{t}" for t in shipped("bbh").subtasks]
        if word != "4"
        else list(sometimes_right)
    )
    theirs, predictions = {}, []
    for suite in suites:
        task = f"specialize_eval_{suite.replace('/', '_')}_{prompt}"
        [metrics] = (tmp_path / "evaluated").rglob(f"{task}-metrics.jsonl")
        theirs[f"{suite}:{prompt}"] = lines(metrics)[-1]
        [written] = (tmp_path / "evaluated").rglob(f"{task}-0*.jsonl")
        predictions += [
            {
                "suite": f"{suite}:{prompt}",
                "id": row["input"]["id"],
                "prediction": row["prediction"],
            }
            for row in lines(written)
        ]
    (tmp_path / "predictions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in predictions)
    )
    run(
        *("specialize", "evaluate", "--predictions", tmp_path / "predictions.jsonl"),
        *("--benchmarks", files, "--split=all", "--json", tmp_path / "ours.json"),
    )
    ours = json.loads((tmp_path / "ours.json").read_text())["suites"]
    assert ours.keys() == theirs.keys()
    for name, score in ours.items():
        found = theirs[name]
        assert found["n"] == score["n"] > 0
        assert found["accuracy"] == pytest.approx(score["accuracy"])
        assert found["accuracy_low"] == pytest.approx(score["low"])
        assert found["accuracy_high"] == pytest.approx(score["high"])
        for how in HOWS:
            assert found[f"how_{how}"] * score["n"] == pytest.approx(score["how"][how])
    for suite in sometimes_right:
        assert 0 < ours[f"{suite}:{prompt}"]["accuracy"] < 1
