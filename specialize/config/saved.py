"""Writes the configuration into the folder of a run."""

import json
import os

from specialize import outputs, run_folder, versions
from specialize.config.applying import current
from specialize.config.reading import Config


def save(directory: str | os.PathLike[str], config: Config | None = None) -> None:
    """Writes the configuration as `config.gin` and `config.json`.

    `config.gin` is gin's own rendering and can be given to --gin_file again;
    `config.json` has every effective value with its origin and what it replaced.

    Args:
        directory: Folder of the run, local or a URL such as gs://bucket/run.
        config: The configuration. None: the one gin has now; nothing is written if it
            did not come from `parse`.
    """
    config = config or current()
    if config is None:
        return
    import gin

    _write(directory, run_folder.CONFIG_GIN, gin.config_str())
    head = {"version": versions.CONFIGURATION.writes}
    rows = {"gin_files": list(config.scan.files), "values": config.rows()}
    text = json.dumps(head | rows, indent=2, ensure_ascii=False)
    _write(directory, run_folder.CONFIG, text + "\n")


def save_operative(directory: str | os.PathLike[str]) -> None:
    """Writes the values that were used, with defaults, as `operative_config.gin`.

    Call it after every configurable function. Nothing is written if gin's configuration
    did not come from `parse`.
    """
    if current() is None:
        return
    import gin

    _write(directory, run_folder.OPERATIVE_CONFIG, gin.operative_config_str())


def _write(directory: str | os.PathLike[str], name: str, text: str) -> None:
    outputs.write_text(os.path.join(os.fspath(directory), name), text)
