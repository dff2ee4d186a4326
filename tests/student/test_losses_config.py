"""What a loss refuses, and how it says so; and what its metrics mean."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import dense_rows, dense_value, random_case, softmax, xlogy

from specialize.corpus import choices
from specialize.errors import InputError
from specialize.student.loss import losses
from specialize.student.loss.losses import LossConfig, distillation_loss

compiled = jax.jit(distillation_loss, static_argnums=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "tial"}, r"loss mode is 'tial'.*Did you mean 'tail'\?"),
        ({"mode": "renormalise"}, r"Did you mean 'renormalize'\?"),
        ({"mode": "tail", "temperature": 2.0}, "temperature 2.0 with mode 'tail'"),
        ({"mode": "paper", "temperature": 0.5}, "Use mode 'renormalize'"),
        ({"mode": "sample", "temperature": 0.5}, "Use mode 'renormalize'"),
        (
            {"mode": "renormalize", "temperature": 0.0},
            "temperature = 0.0; it must be .* above 0",
        ),
        ({"mode": "conditional"}, "Give ce_weight a positive value"),
        ({"mode": "jsd", "jsd_beta": 0.0}, "jsd_beta = 0.0; .* above 0"),
        ({"mode": "jsd", "jsd_beta": 1.0}, "jsd_beta = 1.0; .* below 1"),
        ({"mode": "jsd", "jsd_beta": 9e-31}, "9e-31; .* at least 1e-30 and below 1"),
        ({"mode": "skew", "skew_alpha": 5e-324}, "skew_alpha = 5e-324; .* mode 'tail'"),
        ({"mode": "skew", "skew_alpha": float("nan")}, "skew_alpha = nan"),
        ({"mode": "reverse", "temperature": 2.0}, "Use mode 'renormalize'"),
        ({"kl_weight": -1.0}, "kl_weight = -1.0"),
        ({"ce_weight": float("nan")}, "ce_weight = nan"),
        ({"z_loss": float("inf")}, "z_loss = inf"),
        ({"kl_weight": 0.0}, "nothing to learn"),
    ],
)
def test_a_meaningless_objective_is_refused_with_the_remedy(arguments, message):
    with pytest.raises(InputError, match=message):
        LossConfig(**arguments)


def test_part_of_a_teacher_is_refused_by_name():
    case = random_case()
    targets, ids, probs, _, weights, formats = case.teacher()
    logits = jnp.asarray(case.logits)
    with pytest.raises(InputError, match="lacks teacher_tail"):
        distillation_loss(logits, targets, ids, probs, None, weights, formats)


def test_a_chunk_of_no_tokens_is_refused():
    case = random_case()
    with pytest.raises(InputError, match="chunk is 0"):
        losses.fused_distillation_loss(
            jnp.asarray(case.logits), jnp.eye(29), *case.teacher(), chunk=0
        )


def test_the_formats_are_those_of_the_records():
    assert losses.FORMATS == choices.FORMATS


@pytest.mark.parametrize("mode", ["tail", "renormalize"])
def test_metrics_are_dense_quantities_at_temperature_one_whatever_the_objective(mode):
    heat = 2.0 if mode == "renormalize" else 1.0
    config = LossConfig(mode, ce_weight=0.5, z_loss=1e-3, temperature=heat)
    case = random_case(seed=12, batch=6, length=10)
    with jax.enable_x64(True):
        sums = compiled(jnp.asarray(case.logits), *case.teacher(), config)
        metrics = {k: (float(s), float(c)) for k, (s, c) in sums.metrics.items()}
    p, own = dense_rows(case)
    q = softmax(case.logits)
    slots = own.sum(-1)
    soft = (slots > 1) | (case.tail > 0)
    ranks = (case.logits[..., None, :] > case.logits[..., None]).sum(-1)
    z_loss = 1e-3 * np.log(np.exp(case.logits).sum(-1)) ** 2
    kl = dense_value(case, LossConfig("tail"))
    expected = {
        "loss": dense_value(case, config),
        "ce": dense_value(case, LossConfig("sample")),
        "z_loss": z_loss,
        "accuracy": q.argmax(-1) == case.targets,
        "kl": kl,
        "teacher_entropy": -xlogy(p, p).sum(-1),
        "kept_mass": p.sum(-1),
        "student_mass": np.where(own, q, 0).sum(-1),
        "top1_agreement": p.argmax(-1) == q.argmax(-1),
        "topk_overlap": (own & (ranks < slots[..., None])).sum(-1) / slots,
        "soft_share": soft,
        "soft_kl": np.where(soft, kl, 0),
    }
    prefixes = {"": case.weights}
    for index, name in enumerate(losses.FORMATS, start=1):
        prefixes[f"{name}/"] = case.weights * (case.formats == index)
    assert metrics.keys() == {p + name for p in prefixes for name in expected}
    for prefix, weights in prefixes.items():
        for name, values in expected.items():
            count = (weights * soft).sum() if name == "soft_kl" else weights.sum()
            np.testing.assert_allclose(
                metrics[prefix + name],
                ((values * weights).sum(), count),
                rtol=1e-10,
                atol=1e-12,
                err_msg=prefix + name,
            )


def test_metrics_do_not_let_gradient_through():
    case = random_case()

    def kl(logits):
        return distillation_loss(logits, *case.teacher()).metrics["kl"][0]

    assert not jax.jit(jax.grad(kl))(jnp.asarray(case.logits)).any()


def test_a_broken_position_of_weight_zero_stays_out_of_the_metrics():
    case = random_case(seed=13).cast(np.float32)
    case.logits[case.weights == 0] = np.nan
    sums = compiled(jnp.asarray(case.logits), *case.teacher())
    assert all(np.isfinite(x) for x in jax.tree.leaves(sums))


def test_parts_of_a_batch_add():
    case = random_case(seed=14).cast(np.float32)
    parts = [dataclasses.replace(case, weights=case.weights * m) for m in (0.25, 0.75)]
    whole, *halves = (
        compiled(jnp.asarray(c.logits), *c.teacher()) for c in (case, *parts)
    )
    added = halves[0] + halves[1]
    assert isinstance(added, losses.LossSums)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, added)
