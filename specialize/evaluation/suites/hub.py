"""Benchmarks from the Hugging Face hub: "hub:<owner>/<dataset>".

A dataset may have the layout of a benchmarks folder (`gsm8k/test.jsonl`, ...), have the
owners' files at its top (`test.jsonl`), or be GSM8K as its owners publish it
(`hub:openai/gsm8k`: Parquet, converted to the same JSON lines). Downloads stay in the
hub's own cache.
"""

import json
import pathlib

from specialize import outputs
from specialize.corpus.benchmarks.table import BENCHMARKS, MAS, MATH
from specialize.errors import InputError

PREFIX = "hub:"

# Prefixes of the Parquet shards of the owners' own dataset.
_PARQUET = {"gsm8k": ("main/test-", "main/train-")}
# Owners' file at the top of a dataset -> its path in the benchmarks layout.
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
        place: A path, or "hub:<owner>/<dataset>[@<revision>]".
        suite: The suite whose files are needed.

    Returns:
        The path; for a dataset a folder in the benchmarks layout.

    Raises:
        InputError: The dataset cannot be reached or has no file of the suite.
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
            f"{place} is not the name of a dataset ({error}). Write "
            "hub:<owner>/<dataset>."
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
            f"{place} has no file of suite {suite!r} in a known layout "
            f"({', '.join(_PATTERNS.get(suite.partition('/')[0], ()))})."
        )
    shards = [name for name in files if name.endswith(".parquet")]
    loose = [name for name in files if name in _TOP_LEVEL]
    flat_bbh = [name for name in files if name.startswith(("bbh/", "cot-prompts/"))]
    flat_bbh = [name for name in flat_bbh if name.count("/") == 1]
    if not shards and not loose and not flat_bbh:
        return folder
    # Beside the snapshot, in the same cache; links need no space.
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
            "this dataset is Parquet, which needs pyarrow. Run 'pip install pyarrow', "
            "or name a folder with the owners' JSON lines."
        ) from error
    lines: list[str] = []
    for shard in shards:
        try:
            rows = parquet.read_table(shard, columns=["question", "answer"]).to_pylist()
            lines += [json.dumps(row, ensure_ascii=False) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's too
            raise InputError(
                f"{shard} is damaged, or not a Parquet file of GSM8K "
                f"({_first_line(error):.200}). Remove it from the cache and run the "
                "command again."
            ) from error
    outputs.write_text(target, "\n".join(lines) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
