"""What a neutral value of a recipe is called on T5X.

Recipes set `MESH`, `MICROBATCHES` and the like once; these functions stand in T5X's run
files and translate. They import nothing of T5X.
"""

from collections.abc import Callable, Sequence
from typing import Any

from specialize.errors import InputError
from specialize.mesh import MeshSpec


def model_partitions(mesh: Any) -> int:
    """T5X's `num_partitions`: the chips that share one example's matrices.

    Args:
        mesh: any spelling that `MeshSpec.read` takes; T5X derives "data" itself.

    Raises:
        InputError: it is no mesh, or "model" is -1, which T5X cannot derive.
    """
    size = MeshSpec.read(mesh).model
    if size < 1:
        raise InputError(
            f"MESH is {mesh!r}: T5X derives the data axis; give 'model' a number."
        )
    return size


def parameter_dims(mesh: Any) -> int:
    """T5X's `parameter_partitioning_dims`: with 2, parameters share the batch's axis.

    T5X has one axis where we have "data" and "fsdp": either all of it holds parameters
    (2) or none (1).
    """
    return 1 if MeshSpec.read(mesh).fsdp == 1 else 2


def microbatches(number: int) -> int | None:
    """T5X's `num_microbatches`, which wants None for one."""
    return None if number == 1 else number


def shuffle(data: Any) -> bool:
    """Whether T5X's pipeline shuffles: SeqIO knows no order but "random".

    Args:
        data: the `DataSpec` of the run.

    Raises:
        InputError: another order.
    """
    if data.order != "random":
        raise InputError(
            f"ORDER = {data.order!r}: under T5X SeqIO shuffles, and keeps nothing "
            "together. Train with 'specialize train', or set ORDER = 'random'."
        )
    return True


def optimizer(name: str, **kinds: Callable[[], Any]) -> Any:
    """T5X's optimizer of this name.

    Args:
        name: one of the keywords.
        **kinds: name=constructor; the one that is named is called.

    Raises:
        InputError: none of them has that name.
    """
    if name not in kinds:
        raise InputError(
            f"OPTIMIZER = {name!r}: T5X's run file offers {', '.join(kinds)}."
        )
    return kinds[name]()


def learning_rate(optimizer: Any) -> Callable[[Any], Any]:
    """The schedule of our optimizer, step -> rate, as T5X's trainer asks for it."""
    return optimizer.learning_rate


def evaluation_task(suites: Sequence[str], prompt: str) -> str:
    """The SeqIO task or mixture that T5X evaluates for a recipe's `SUITES`.

    Args:
        suites: exactly one suite or group: T5X evaluates one mixture a run.
        prompt: how it is asked; a suite written "name:prompt" says so itself.

    Raises:
        InputError: none, or more than one suite.
    """
    if len(suites) != 1:
        raise InputError(
            f"SUITES = {tuple(suites)!r}: T5X evaluates one task or mixture a run. Set "
            "one suite, as in --gin.SUITES=\"('gsm8k',)\", and run it for each."
        )
    name, _, own = suites[0].partition(":")
    return f"specialize_eval_{name.replace('/', '_')}_{own or prompt}"
