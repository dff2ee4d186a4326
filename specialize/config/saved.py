"""The configuration as a run keeps it."""

import json
import os

from specialize import outputs, run_folder, versions
from specialize.config.applying import current
from specialize.config.reading import Config


def save(directory: str | os.PathLike[str], config: Config | None = None) -> None:
    """Writes what was configured: `config.gin` and `config.json`.

    `config.gin` is gin's own rendering and can be given to --gin_file again;
    `config.json` holds every effective value with its origin and what it replaced.

    Args:
        directory: the run's folder, local or a URL such as gs://bucket/run.
        config: what to save; by default the configuration gin holds. Nothing is
            written where gin was configured without `parse`.
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
    """Writes what was really used, defaults included, as `operative_config.gin`.

    Call it once everything configurable has been called. Nothing is written where
    gin was configured without `parse`.

    Args:
        directory: the run's folder, local or a URL.
    """
    if current() is None:
        return
    import gin

    _write(directory, run_folder.OPERATIVE_CONFIG, gin.operative_config_str())


def _write(directory: str | os.PathLike[str], name: str, text: str) -> None:
    folder = os.fspath(directory)
    if "://" in folder:
        from etils import epath

        target = epath.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
    else:
        outputs.write_text(os.path.join(folder, name), text)
