"""The step that a path means: itself, or of a run's folder its newest finished one."""

from etils import epath

from specialize import processes, run_folder
from specialize.checkpoints import step_folder
from specialize.checkpoints.formats import orbax_folders, t5x
from specialize.progress import say


def step_of_all(path: epath.Path) -> epath.Path | None:
    """As `step_in`, but process 0 chooses for all processes, which all call it.

    `path` may be another one in each of them, such as that of a copy.

    Raises:
        InputError: as `step_in`, or a process does not find the chosen step.
    """

    def choose() -> str | None:
        folder = step_in(path)
        return folder and str(folder).removeprefix(str(path)).strip("/")

    found = processes.chosen_by_first(choose, lambda one: (path / one).exists(), path)
    return found if found is None else path / found


def step_in(path: epath.Path) -> epath.Path | None:
    """The folder of one step that `path` names, or None if it is of another kind.

    Raises:
        InputError: a run of ours has only steps that are not finished, or `path` is
            one of them.
    """
    if t5x.is_folder(path):
        return path
    if orbax_folders.is_folder(path):
        step = path.parent if path.name == step_folder.STATE else path
        if step_folder.is_step(step.name):
            step_folder.refuse_unfinished(step)
        return path
    if steps := t5x.steps(path):
        newest = max(steps)
        if len(steps) > 1:
            say(f"{path}: reading the newest of {len(steps)} checkpoints, {newest}")
        return steps[newest]
    for folder in (path / run_folder.CHECKPOINTS, path):
        for step in reversed(step_folder.finished_steps(folder)):
            if orbax_folders.is_folder(folder / str(step)):
                return folder / str(step)
        for step in reversed(step_folder.begun_steps(folder)):
            step_folder.refuse_unfinished(folder / str(step))
    return None
