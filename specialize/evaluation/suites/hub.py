"""Benchmarks from the Hugging Face hub: "hub:<owner>/<dataset>".

A dataset may be laid out as a benchmarks folder is (`gsm8k/test.jsonl`, ...), hold the
owners' files at its top (`test.jsonl`), or be GSM8K as its owners keep it there
(`hub:openai/gsm8k`: Parquet, turned into the same JSON lines). What is downloaded stays
in the hub's own cache.
"""

import json
import pathlib
from typing import Any

from specialize import outputs
from specialize.corpus.benchmarks.table import BENCHMARKS, MAS, MATH
from specialize.errors import InputError

PREFIX = "hub:"

# Parquet shards of the owners' own dataset -> the file of the benchmarks layout.
_PARQUET = {"gsm8k": ("main/test-", "main/train-")}
# Owner's file at a dataset's top -> where the benchmarks layout has it.
_TOP_LEVEL = {
    pathlib.PurePath(file).name: file
    for name in MATH
    for file in (BENCHMARKS[name].test_file, BENCHMARKS[name].train_file)
    if file
}
_PATTERNS = {
    **{
        name: tuple(
            one
            for top, file in _TOP_LEVEL.items()
            if file.startswith(f"{name}/")
            for one in (file, top)
        )
        + tuple(f"{prefix}*.parquet" for prefix in _PARQUET.get(name, ()))
        for name in MATH
    },
    "bbh": (
        "bbh/bbh/*.json",
        "bbh/cot-prompts/*.txt",
        "bbh/*.json",
        "cot-prompts/*.txt",
    ),
}


def resolve(place: str, suite: str) -> pathlib.Path:
    """A local folder or file for `place`, downloaded if it names a dataset.

    Args:
        place: a path, or "hub:<owner>/<dataset>[@<revision>]".
        suite: whose files are wanted.

    Returns:
        The path; for a dataset a folder in the benchmarks layout.

    Raises:
        InputError: the dataset cannot be reached or holds no file of the suite.
    """
    if not place.startswith(PREFIX):
        return pathlib.Path(place).expanduser()
    repository, _, revision = place.removeprefix(PREFIX).partition("@")
    family = suite.partition("/")[0]
    families = MAS if family == "mas" else (family,)
    patterns = [one for family in families for one in _PATTERNS.get(family, ())]
    if any(family != "bbh" for family in families):
        patterns += _PATTERNS["gsm8k"]  # demonstrations
    folder = _snapshot(repository, revision or None, sorted(set(patterns)), place)
    return _laid_out(folder, place, suite)


def _snapshot(
    repository: str, revision: str | None, patterns: list[str], place: str
) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                allow_patterns=patterns,
            )
        )
    except errors.HFValidationError as error:
        raise InputError(
            f"{place} is no dataset's name ({error}). Write hub:<owner>/<dataset>."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise InputError(
            f"{place}: the hub has no such dataset or revision, or it is private. "
            "Check the name, or log in with 'hf auth login'."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{place} cannot be downloaded ({_first_line(error)}). Check the network, "
            "or give a folder with the owners' files instead."
        ) from error


def _laid_out(folder: pathlib.Path, place: str, suite: str) -> pathlib.Path:
    """Brings top-level files and Parquet shards into the benchmarks layout."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )
    if not files:
        raise InputError(
            f"{place} holds no file of suite {suite!r} in a layout we know "
            f"({', '.join(_PATTERNS.get(suite.partition('/')[0], ()))})."
        )
    shards = [name for name in files if name.endswith(".parquet")]
    loose = [name for name in files if name in _TOP_LEVEL]
    flat_bbh = [name for name in files if name.startswith(("bbh/", "cot-prompts/"))]
    flat_bbh = [name for name in flat_bbh if name.count("/") == 1]
    if not shards and not loose and not flat_bbh:
        return folder
    # Beside the snapshot, in the same cache: links cost nothing and go with it.
    target = folder.with_name(f"{folder.name}.specialize")
    for name in files:
        place_in = _TOP_LEVEL.get(name, f"bbh/{name}" if name in flat_bbh else name)
        if not name.endswith(".parquet"):
            _link(folder / name, target / place_in)
    for split in ("test", "train"):
        chosen = [name for name in shards if f"/{split}-" in name]
        if chosen:
            _write_lines(
                [folder / name for name in chosen], target / f"gsm8k/{split}.jsonl"
            )
    return target


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())


def _write_lines(shards: list[pathlib.Path], target: pathlib.Path) -> None:
    if target.exists():
        return
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "this dataset is Parquet, which needs pyarrow: 'pip install pyarrow', or "
            "give the owners' JSON lines."
        ) from error
    rows: list[dict[str, Any]] = []
    for shard in shards:
        rows += parquet.read_table(shard).to_pylist()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    outputs.write_text(target, "\n".join(lines) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
