"""Whatever a command writes, others may read it as far as the umask lets them."""

import json
import os
import pathlib
import stat

import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from specialize import cli, outputs
from specialize.checkpoints import names
from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.sampling.responses import ResponseStore
from specialize.quickstart import miniature
from specialize.quickstart.exact_teacher import TEACHER_NAME
from specialize.student.network.architecture import T5Config

NETWORK = T5Config(
    vocab_size=256,
    emb_dim=8,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=8,
    mlp_activations=("gelu", "linear"),
)


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(folder: pathlib.Path, umask: int) -> dict[str, str]:
    """What in a folder does not have the mode of this umask."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask:
            found[str(path.relative_to(folder))] = oct(mode)
    return found


def typed(*words) -> None:
    assert cli.main([str(word) for word in words]) == 0


def test_staged_files_and_folders_follow_the_umask(tmp_path, umask):
    out = tmp_path / "new"
    outputs.write_json(out / "deep" / "a.json", {})
    with outputs.staged_file(out / "replaced") as staged:
        private = staged.with_name("private")
        private.touch(0o600)
        private.replace(staged)  # as a library does that writes and renames
    with outputs.staged_directory(out / "folder", "kind") as staged:
        (staged / "inner").mkdir(0o700)
        (staged / "inner" / "private").touch(0o600)
        (staged / "script").touch(0o777)
    outputs.claim(out / "claimed", "kind")
    assert wrong_modes(out, umask) == {}


def test_exports_checkpoints_and_copied_tokenizers_follow_the_umask(tmp_path, umask):
    out = tmp_path / "new"
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the answer is {n % 10} ." for n in range(40)))
    vocabulary = miniature.train_vocabulary(text, out / "spiece.model")
    weights = {
        tuple(name.split("/")): jnp.full(shape, 0.1, jnp.float32)
        for name, shape in names.shapes(NETWORK).items()
    }
    with CheckpointStore(out / "run" / "checkpoints") as store:
        store.save(1, {"params": unflatten_dict(weights)}, {})
    for source, to in (("run", "hf"), ("hf", "t5x"), ("hf", "orbax")):
        typed(
            *("convert", "--source", out / source, "--target", out / to, "--to", to),
            *("--activation", "gelu"),
            *("--vocabulary", vocabulary),
        )
    for name in ("hf/model.safetensors", "hf/spiece.model", "t5x/checkpoint_0"):
        assert (out / name).exists(), name
    assert wrong_modes(out, umask) == {}


def test_corpora_responses_and_judgements_follow_the_umask(tmp_path, umask):
    out = tmp_path / "new"
    world = miniature.write(out / "world", num_train=8, num_test=4)
    vocabulary = miniature.train_vocabulary(world / "text.txt", out / "spiece.model")
    answered = (
        *("--problems", world / "gsm8k" / "train.jsonl"),
        *("--completions", world / "completions.jsonl"),
    )
    typed(
        *("corpus", "build", *answered, "--no_rationales", "--out", out / "corpus"),
        *("--teacher", TEACHER_NAME, "--vocabulary", vocabulary),
        *("--demonstrations", "1"),
    )
    typed(
        *("corpus", "verify", *answered, "--out", out / "right.jsonl.gz"),
        *("--rejected", out / "rejected.jsonl"),
    )
    with ResponseStore(out / "answers.sqlite", create=True):
        written = {path.name for path in out.glob("answers.sqlite*")}
        assert "answers.sqlite" in written
        assert wrong_modes(out, umask) == {}
    lines = [
        {"suite": "gsm8k", "id": f"gsm8k-test-{n}", "prediction": "1"} for n in range(4)
    ]
    (tmp_path / "outputs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    typed(
        *("evaluate", "--predictions", tmp_path / "outputs.jsonl"),
        *("--benchmarks", world, "--json", out / "judged" / "found.json"),
    )
    typed("report", out / "judged" / "found.json", "--out", out / "pages" / "r.html")
    kinds = {path.suffix for path in out.rglob("*")}
    assert {".json", ".jsonl", ".md", ".html", ".sqlite", ".model"} <= kinds
    assert list(out.rglob("*.tfrecord*")), kinds
    assert wrong_modes(out, umask) == {}
