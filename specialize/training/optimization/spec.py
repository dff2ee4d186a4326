"""The optimizer and its rate. A light module, which gin and the lint read quickly."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean
from specialize.student.adapters.spec import AdapterSpec

SCHEDULES = ("constant", "linear", "cosine", "rsqrt")
OPTIMIZERS = ("adamw", "adamw_8bit", "adafactor")
PARAM_DTYPES = ("float32", "bfloat16")


def _decay(name: str, value: Any) -> None:
    checks.real(name, value, least=0)
    if value >= 1:
        raise InputError(f"{name} = {value}; it must be a number below 1.")


def _least_0(name: str, value: Any) -> None:
    checks.real(name, value, least=0)


def _above_0(name: str, value: Any) -> None:
    checks.real(name, value, above=0)


def _threshold(name: str, value: Any) -> None:
    if value is not None:
        _above_0(name, value)


def _from_0(name: str, value: Any) -> None:
    checks.whole(name, value, 0)


_OF_ADAM = {"b1": _decay, "b2": _decay, "eps": _least_0}
# Optimizer -> option -> its check: arguments of the functions in `optimizers` for which
# `OptimizerSpec` has no field.
OPTIONS: dict[str, dict[str, Callable[[str, Any], None]]] = {
    "adamw": _OF_ADAM,
    "adamw_8bit": _OF_ADAM,
    "adafactor": {
        "decay_rate": _above_0,
        "step_offset": _from_0,
        "clipping_threshold": _threshold,
        "multiply_by_parameter_scale": checks.flag,
        "min_dim_size_to_factor": checks.whole,
    },
}


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer by name, with its learning-rate schedule.

    Attributes:
        name: one of `OPTIMIZERS`.
        learning_rate: the peak rate.
        schedule: one of `SCHEDULES`.
        total_steps: number of optimizer steps until the end of the schedule; needed by
            "linear" and "cosine".
        warmup_steps: number of steps of linear rise from 0.
        end_fraction: last rate as a fraction of the peak rate ("linear" and "cosine").
        weight_decay: decoupled decay per step, multiplied by the learning rate (AdamW),
            or fraction of the parameter per step (Adafactor, as in T5X).
        clip_norm: largest global norm of the gradient. None: no clipping.
        ema_decay: decay per step of a moving average of the weights, which is kept
            beside them (`averaging`). None: no average.
        adapters: low-rank adapters, which are trained instead of the weights. None, or
            of rank 0: all weights are trained.
        param_dtype: type of the projections' weights while they are trained and saved,
            one of `PARAM_DTYPES`; the other parameters are float32 (`rounding`).
        stochastic_rounding: whether updates of bfloat16 weights are rounded
            stochastically; otherwise to nearest, which loses small ones.
        seed: seed of what is rounded stochastically.
        options: further arguments of the optimizer's function in `optimizers`, of
            those that are in `OPTIONS`.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> specialize.OptimizerSpec(learning_rate=1e-3, total_steps=500).schedule
        'cosine'
    """

    name: str = "adamw"
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    total_steps: int | None = None
    warmup_steps: int = 0
    end_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    adapters: AdapterSpec | None = None
    param_dtype: str = "float32"
    stochastic_rounding: bool = True
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.one_of("name", self.name, OPTIMIZERS)
        checks.real("learning_rate", self.learning_rate, least=0)
        checks.one_of("schedule", self.schedule, SCHEDULES)
        checks.whole("total_steps", self.total_steps, optional=True)
        checks.whole("warmup_steps", self.warmup_steps, 0)
        checks.real("end_fraction", self.end_fraction, least=0)
        checks.real("weight_decay", self.weight_decay, least=0)
        if self.clip_norm is not None:
            checks.real("clip_norm", self.clip_norm, above=0)
        if self.ema_decay is not None:
            checks.real("ema_decay", self.ema_decay, above=0, below=1)
        checks.one_of("param_dtype", self.param_dtype, PARAM_DTYPES)
        checks.flag("stochastic_rounding", self.stochastic_rounding)
        checks.whole("seed", self.seed, 0)
        self._check_options()
        if self.param_dtype != "float32" and self.adapters and self.adapters.rank:
            raise InputError(
                f"param_dtype = {self.param_dtype!r}, but the weights that are trained "
                f"are adapters (rank {self.adapters.rank}), which are few and float32. "
                "Leave param_dtype as 'float32'; the frozen weights have the type of "
                "the activations already."
            )
        if self.schedule not in ("linear", "cosine"):
            return
        if self.total_steps is None:
            raise InputError(
                f"schedule {self.schedule!r} needs total_steps. Set total_steps."
            )
        if self.total_steps <= self.warmup_steps:
            raise InputError(
                f"total_steps = {self.total_steps} must be more than warmup_steps = "
                f"{self.warmup_steps}: the schedule would end before it begins to fall."
            )

    def _check_options(self) -> None:
        if not isinstance(self.options, Mapping):
            raise InputError(
                f"options is {checks.shown(self.options)}, expected a dictionary such "
                "as {'b2': 0.98}."
            )
        known = OPTIONS[self.name]
        fields = {field.name for field in dataclasses.fields(self)}
        for name, value in self.options.items():
            if name in known:
                known[name](f"options[{name!r}]", value)
                continue
            remedy = did_you_mean(name, known) if isinstance(name, str) else ""
            if name in fields:
                remedy = f" Set the field {name} of OptimizerSpec instead."
            raise InputError(
                f"options: {self.name} has no option {checks.shown(name)}. Its options "
                f"are {', '.join(known)}.{remedy}"
            )
