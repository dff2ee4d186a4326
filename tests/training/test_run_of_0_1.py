"""Prepared examples of version 0.1 are read, and its run goes on where it was."""

import json
import re

import numpy as np
import pytest

from specialize import cli, versions
from specialize.checkpoints.opening import open_checkpoint
from specialize.training.data.stored_examples import META, open_examples

NEWER = pytest.mark.parametrize("found", [2, "next"])


def folders(of_0_1):
    return sorted((of_0_1 / "examples").iterdir())


def test_prepared_examples_are_those_that_were_prepared(of_0_1, recorded):
    assert [folder.name for folder in folders(of_0_1)] == list(recorded["examples"])
    for folder in folders(of_0_1):
        was = recorded["examples"][folder.name]
        examples = open_examples(folder, "golden")
        assert examples.digest == was["digest"]
        assert dict(examples.counts) == was["counts"]
        assert examples.lengths.tolist() == was["lengths"]
        found = [examples.record_id(index) for index in range(len(examples))]
        assert found == was["ids"]
        assert examples.features.keys() == was["sums"].keys()
        for name, values in examples.features.items():
            total = np.asarray(values, np.float64).sum()
            np.testing.assert_allclose(total, was["sums"][name], rtol=1e-12)


def test_an_example_is_the_record_with_its_teacher_rows(of_0_1, recorded):
    ((wanted, rows),) = recorded["corpus"]["rows"].items()
    examples = open_examples(folders(of_0_1)[1], "golden")
    ids = [examples.record_id(index) for index in range(len(examples))]
    index = ids.index(wanted)
    begin = examples.starts["targets"][index]
    part = slice(begin, begin + examples.lengths[index, 1])
    np.testing.assert_array_equal(
        examples.features["teacher_ids"][part], rows["teacher_ids"]
    )
    # Rows are normalised when they are read: float16 misses 1 by up to 5e-4.
    np.testing.assert_allclose(
        examples.features["teacher_probs"][part], rows["teacher_probs"], atol=1e-3
    )


@NEWER
def test_newer_prepared_examples_are_refused(of_0_1, restate, refused, found):
    folder = folders(of_0_1)[0]
    restate(folder / META, version=found, examples={"count": 3})
    read = lambda: open_examples(folder, "golden")  # noqa: E731
    refused(read, versions.EXAMPLES, folder / META, found)


def train(folder, *words):
    """Types the command that trained the run, with today's code."""
    places = {
        "MODEL_DIR": folder / "run",
        "CORPUS_DIR": folder / "corpus",
        "VOCABULARY_PATH": folder / "vocabulary.model",
        "BENCHMARKS_DIR": folder / "world",
    }
    recipe = folder / "golden.gin"
    # 0.2 renamed the package of tasks; an older recipe is refused with this remedy.
    text = recipe.read_text().replace("import tasks\n", "import specialize_tasks\n")
    recipe.write_text(text)
    flags = [f"--gin.{name}={str(place)!r}" for name, place in places.items()]
    return cli.main(["train", "--gin_file", str(recipe), *flags, *words])


def test_a_run_goes_on_from_its_checkpoint_as_it_went_on_with_0_1(
    of_0_1, recorded, capfd
):
    assert train(of_0_1) == 0
    lines = [json.loads(s) for s in (of_0_1 / "run/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        was = recorded["losses"][str(line["step"])]
        np.testing.assert_allclose(line["train"]["loss"], was, rtol=1e-4)
    opened = open_checkpoint(str(of_0_1 / "run"))
    assert opened.step == 4
    for name, (total, squares) in recorded["parameters"]["4"].items():
        array = np.asarray(opened.tensors[name].read(), np.float64)
        np.testing.assert_allclose((array**2).sum(), squares, rtol=1e-3, err_msg=name)
        scale = np.sqrt(squares * array.size)
        assert abs(array.sum() - total) < 1e-3 * scale, name
    # The examples that were prepared now are those of 0.1.
    digests = sorted(
        open_examples(folder, "now").digest
        for folder in (of_0_1 / "run/examples").iterdir()
    )
    assert digests == sorted(one["digest"] for one in recorded["examples"].values())
    written = json.loads((of_0_1 / "run/config.json").read_text())
    assert list(written)[0] == "version" and written["version"] == 1

    # What a run keeps of its configuration can be given again.
    saved = {path: path.read_bytes() for path in (of_0_1 / "run").glob("*config.*")}
    assert len(saved) == 3
    for name in ("config.gin", "operative_config.gin"):
        again = ["train", "--gin_file", str(of_0_1 / "run" / name)]
        assert cli.main([*again, "--gin.LOG_PERIOD=3"]) == 0
        said = capfd.readouterr().err
        assert "is complete: 4 of 4 steps" in said
        assert re.search(r"^LOG_PERIOD was \d+, now it is 3$", said, re.MULTILINE)
        assert cli.main([*again, "--gin.BATCH_SIZE=2"]) == 2
        assert "batch_size was 4, is 2" in capfd.readouterr().err
    # Neither a refused command nor one without a step changes what is kept of the run.
    assert {path: path.read_bytes() for path in saved} == saved


def test_a_run_in_a_newer_folder_is_refused_before_anything_is_read(
    of_0_1, restate, capfd
):
    restate(of_0_1 / "run" / "specialize.json", version=2)
    before = (of_0_1 / "run" / "config.json").read_bytes()
    assert train(of_0_1) == 2
    assert "folder of specialize of version 2" in capfd.readouterr().err
    assert (of_0_1 / "run" / "config.json").read_bytes() == before
