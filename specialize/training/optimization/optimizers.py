"""Optimizers by name, as optax chains, and learning-rate schedules in optimizer steps.

A schedule counts optimizer steps, not microbatches, so that it ends with the run for
every number of microbatches.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from specialize.student.adapters.spec import AdapterSpec
from specialize.training.optimization.averaging import with_ema
from specialize.training.optimization.eight_bit import scale_by_adam_8bit
from specialize.training.optimization.factored import scale_by_factored_rms
from specialize.training.optimization.rounding import with_rounding
from specialize.training.optimization.spec import OptimizerSpec

Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax chain that may depend on the logical axes of the parameters.

    It has the `init` and `update` of a `GradientTransformation`, so that T5X's wrapper
    of optax can use it too.

    Attributes:
        name: one of `spec.OPTIMIZERS`.
        learning_rate: step -> rate, for the log; the chain contains it already.
        build: flax's "params_axes" collection, or None -> the chain.
        adapters: the adapters whose matrices the chain trains, or None.
        param_dtype: type of the projections' weights that the chain trains.
    """

    name: str
    learning_rate: Schedule
    build: Callable[[Any], optax.GradientTransformation]
    adapters: AdapterSpec | None = None
    param_dtype: str = "float32"

    def with_axes(self, params_axes: Any) -> optax.GradientTransformation:
        """The chain for parameters with these logical axes."""
        return self.build(params_axes)

    @property
    def init(self) -> Callable[..., Any]:
        """The `init` of optax."""
        return self.build(None).init

    @property
    def update(self) -> Callable[..., Any]:
        """The `update` of optax."""
        return self.build(None).update


def make_optimizer(spec: OptimizerSpec) -> Optimizer:
    """Makes the optimizer of a specification, with its schedule."""
    ends = {"total_steps": spec.total_steps, "end_fraction": spec.end_fraction}
    rate = {
        "constant": constant,
        "rsqrt": rsqrt,
        "linear": functools.partial(linear, **ends),
        "cosine": functools.partial(cosine, **ends),
    }[spec.schedule](spec.learning_rate, warmup_steps=spec.warmup_steps)
    make = {"adamw": adamw, "adamw_8bit": adamw_8bit, "adafactor": adafactor}[spec.name]
    options = dict(spec.options)
    if "seed" in inspect.signature(make).parameters:
        options["seed"] = spec.seed
    decay, clip = spec.weight_decay, spec.clip_norm
    made = make(rate, weight_decay=decay, clip_norm=clip, **options)

    def build(axes: Any) -> optax.GradientTransformation:
        chain = made.build(axes)
        if spec.param_dtype != "float32":
            chain = with_rounding(
                chain, seed=spec.seed, stochastic=spec.stochastic_rounding
            )
        return chain if spec.ema_decay is None else with_ema(chain, spec.ema_decay)

    adapters = (
        spec.adapters if spec.adapters is not None and spec.adapters.rank else None
    )
    return dataclasses.replace(
        made, build=build, adapters=adapters, param_dtype=spec.param_dtype
    )


def adamw(
    learning_rate: float | Schedule = 5e-4,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    The defaults are those of PyTorch's AdamW, which the paper used, except for the
    weight decay, which is 0.01 there.

    Args:
        learning_rate: a rate or a schedule.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: number added to the root of the second moment.
        weight_decay: decay per step, multiplied by the learning rate.
        clip_norm: greatest global norm of the gradient. None: no clipping.
    """
    rate = _schedule(learning_rate)
    chain = optax.chain(
        _clip(clip_norm),
        optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )
    return Optimizer("adamw", rate, lambda axes: chain)


def adamw_8bit(
    learning_rate: float | Schedule = 5e-4,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    seed: int = 0,
) -> Optimizer:
    """AdamW with moments in 8 bits (`eight_bit`).

    Args:
        learning_rate: a rate or a schedule.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: number added to the root of the second moment.
        weight_decay: decay per step, multiplied by the learning rate.
        clip_norm: greatest global norm of the gradient. None: no clipping.
        seed: seed of the rounding of the moments.
    """
    rate = _schedule(learning_rate)
    chain = optax.chain(
        _clip(clip_norm),
        scale_by_adam_8bit(b1=b1, b2=b2, eps=eps, seed=seed),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    return Optimizer("adamw_8bit", rate, lambda axes: chain)


def adafactor(
    learning_rate: float | Schedule = 1e-3,
    *,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> Optimizer:
    """Adafactor (Shazeer and Stern, 2018) with T5X's factoring by logical axes.

    Args:
        learning_rate: a rate or a schedule; relative to each parameter's scale if
            `multiply_by_parameter_scale` is True.
        decay_rate: c in the second moment's decay 1 - t^-c.
        step_offset: number subtracted from t, to restart the decay in fine-tuning.
        clipping_threshold: greatest root mean square of a parameter's update.
        multiply_by_parameter_scale: whether updates scale with the parameter.
        min_dim_size_to_factor: size below which matrices keep a full second moment.
        weight_decay: fraction of the parameter that a step removes, independent of the
            rate, as in T5X.
        clip_norm: greatest global norm of the gradient. None: no clipping.
    """
    rate = _schedule(learning_rate)

    def build(params_axes: Any) -> optax.GradientTransformation:
        return optax.chain(
            _clip(clip_norm),
            scale_by_factored_rms(
                params_axes,
                decay_rate=decay_rate,
                step_offset=step_offset,
                clipping_threshold=clipping_threshold,
                multiply_by_parameter_scale=multiply_by_parameter_scale,
                min_dim_size_to_factor=min_dim_size_to_factor,
            ),
            optax.scale_by_learning_rate(rate),
            optax.add_decayed_weights(-weight_decay),  # the updates are negative here
        )

    return Optimizer("adafactor", rate, build)


def constant(learning_rate: float, *, warmup_steps: int = 0) -> Schedule:
    """Stays at one rate after a linear rise over `warmup_steps`."""
    return _with_warmup(optax.constant_schedule(learning_rate), warmup_steps)


def linear(
    learning_rate: float,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    end_fraction: float = 0.0,
) -> Schedule:
    """Falls linearly from the peak to its `end_fraction` at `total_steps`."""
    decay = optax.linear_schedule(
        learning_rate, learning_rate * end_fraction, total_steps - warmup_steps
    )
    return _with_warmup(decay, warmup_steps)


def cosine(
    learning_rate: float,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    end_fraction: float = 0.0,
) -> Schedule:
    """Falls as half a cosine from the peak to its `end_fraction` at `total_steps`."""
    decay = optax.cosine_decay_schedule(
        learning_rate, total_steps - warmup_steps, alpha=end_fraction
    )
    return _with_warmup(decay, warmup_steps)


def rsqrt(learning_rate: float, *, warmup_steps: int = 10_000) -> Schedule:
    """The peak times sqrt(warmup / step) after a linear rise, as T5 was pre-trained."""
    warmup = max(1, warmup_steps)

    def decay(step: Any) -> Any:
        return learning_rate * jnp.sqrt(warmup / (jnp.asarray(step) + warmup))

    return _with_warmup(decay, warmup_steps)


def _with_warmup(decay: Schedule, warmup_steps: int) -> Schedule:
    """Begins at (step + 1) / (warmup + 1) of the peak, so that step 0 learns too."""
    if warmup_steps == 0:
        return decay

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step)
        rise = decay(0) * (step + 1) / (warmup_steps + 1)
        return jnp.where(step < warmup_steps, rise, decay(step - warmup_steps))

    return schedule


def _schedule(learning_rate: float | Schedule) -> Schedule:
    if callable(learning_rate):
        return learning_rate
    return optax.constant_schedule(learning_rate)


def _clip(clip_norm: float | None) -> optax.GradientTransformation:
    if clip_norm is None:
        return optax.identity()
    return optax.clip_by_global_norm(clip_norm)
