"""Adam and its kin."""

from __future__ import annotations

import math
from typing import Any

import trainfn as tf
from tests.catalogue.row import Namesake, Row, row

MOMENTUM_DECAY = 20 * math.log(2) / -math.log(0.96)
ADAM_EDGES = {"b1": (0.0,), "b2": (0.0, 0.9999), "eps": (0.0, 1e-3), "lr": (0.0, 10.0)}


@tf.schedule
def over_debias(step: Any, *, eps: Any, b2: Any, power: Any) -> Any:
    """An eps that is added to v, or to its root, before the bias is taken out."""
    return eps / (1 - b2 ** (step + 1)) ** power


def as_in_the_peer(b2: float, eps: float = 1e-8) -> dict[str, Any]:
    """pytorch_optimizer divides sqrt(v + 1e-15) + eps by sqrt(1 - b2^t)."""
    return {
        "eps": over_debias(eps=eps, b2=b2, power=0.5),
        "eps_root": over_debias(eps=1e-15, b2=b2, power=1.0),
    }


ROWS: tuple[Row, ...] = (
    row(
        tf.adam,
        lr=1e-2,
        torch=Namesake("Adam", {"lr": 1e-2}),
        optax=Namesake("adam", {"learning_rate": 1e-2}),
        edges=ADAM_EDGES,
    ),
    row(
        tf.adamw,
        lr=1e-2,
        weight_decay=0.1,
        torch=Namesake("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        optax=Namesake("adamw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        edges={**ADAM_EDGES, "weight_decay": (0.0, 10.0)},
    ),
    row(
        tf.radam,
        lr=1e-2,
        optax=Namesake("radam", {"learning_rate": 1e-2}),
        edges={"b2": (0.5, 0.9), "eps": (0.0, 1e-3), "threshold": (4.0,)},
        descent={"lr": 0.001},
    ),
    row(
        tf.radam,
        "radam_torch",
        lr=1e-2,
        eps=1e-4,
        eps_before_debias=True,
        torch=Namesake("RAdam", {"lr": 1e-2, "eps": 1e-4}),
        edges={"eps": (0.0,)},
        descent={"lr": 0.001},
    ),
    row(
        tf.adam,
        "adam_amsgrad",
        lr=1e-2,
        b2=0.9,  # v falls, so that its maximum is another number
        amsgrad=True,
        torch=Namesake("Adam", {"lr": 1e-2, "betas": (0.9, 0.9), "amsgrad": True}),
    ),
    row(
        tf.adam,
        "adam_amsgrad_optax",
        lr=1e-2,
        b2=0.9,
        eps_root=1e-6,
        amsgrad=True,
        max_of_debiased=True,
        optax=Namesake("amsgrad", {"learning_rate": 1e-2, "b2": 0.9, "eps_root": 1e-6}),
    ),
    row(
        tf.adam,
        "adam_nesterov",
        lr=1e-2,
        nesterov=True,
        eps_root=1e-6,
        optax=Namesake("nadam", {"learning_rate": 1e-2, "eps_root": 1e-6}),
        edges={"b1": (0.0,), "eps_root": (0.0,)},
    ),
    row(
        tf.nadam,
        lr=1e-2,
        # torch keeps the product of momenta in float32.  It is exact there when 0.96^momentum_decay is 2^-20.
        b1=0.5,
        momentum_decay=MOMENTUM_DECAY,
        torch=Namesake("NAdam", {"lr": 1e-2, "betas": (0.5, 0.999), "momentum_decay": MOMENTUM_DECAY}),
        edges={"momentum_decay": (0.0, 4e-3), "b1": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.adamax,
        lr=1e-2,
        torch=Namesake("Adamax", {"lr": 1e-2}),
        optax=Namesake("adamax", {"learning_rate": 1e-2}),
        edges={"b1": (0.0,), "b2": (0.0,), "eps": (0.0, 1e-3)},
    ),
    row(
        tf.adamaxw,
        lr=1e-2,
        weight_decay=0.1,
        optax=Namesake("adamaxw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
    ),
    row(
        tf.adabelief,
        lr=1e-2,
        eps_root=1e-8,
        optax=Namesake("adabelief", {"learning_rate": 1e-2, "eps_root": 1e-8}),
        edges={"eps": (0.0, 1e-3), "eps_root": (0.0, 1e-16), "b1": (0.0,)},
    ),
    row(
        tf.acprop,
        lr=1e-3,
        eps_root=1e-8,
        weight_decay=0.1,
        optax=Namesake("contrib.acprop", {"learning_rate": 1e-3, "eps_root": 1e-8, "weight_decay": 0.1}),
        edges={"eps_root": (0.0, 1e-16)},
    ),
    row(
        tf.yogi,
        lr=1e-2,
        optax=Namesake("yogi", {"learning_rate": 1e-2}),
        edges={"initial_accumulator_value": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.adan,
        lr=1e-2,
        weight_decay=0.1,
        peer=Namesake("Adan", {"lr": 1e-2, "weight_decay": 0.1, "weight_decouple": True}),
        edges={"b1": (0.0,), "b2": (0.0,), "b3": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.adan,
        "adan_optax",
        lr=1e-2,
        weight_decay=0.1,
        eps_root=1e-8,
        one_minus_b2=True,
        optax=Namesake("adan", {"learning_rate": 1e-2, "weight_decay": 0.1}),
    ),
    row(
        tf.laprop,
        lr=1e-2,
        **as_in_the_peer(b2=0.999),
        peer=Namesake("LaProp", {"lr": 1e-2, "eps": 1e-8, "foreach": False}),
        edges={"eps": (1e-15,), "b1": (0.0,)},
    ),
    row(
        tf.adopt,
        lr=1e-2,
        b2=0.99,
        optax=Namesake("contrib.adopt", {"learning_rate": 1e-2, "b2": 0.99}),
        edges={"eps": (0.0, 1e-2), "b1": (0.0,)},
    ),
    row(
        tf.adopt,
        "adopt_unclipped",
        lr=1e-2,
        b2=0.99,
        eps=1e-2,
        nesterov=True,
        use_clipping=False,
        optax=Namesake(
            "contrib.adopt", {"learning_rate": 1e-2, "b2": 0.99, "eps": 1e-2, "nesterov": True, "use_clipping": False}
        ),
    ),
    row(
        tf.ademamix,
        lr=1e-2,
        b3=0.99,
        weight_decay=0.1,
        eps_root=1e-8,
        optax=Namesake("contrib.ademamix", {"learning_rate": 1e-2, "b3": 0.99, "weight_decay": 0.1, "eps_root": 1e-8}),
        edges={"alpha": (0.0,), "b3": (0.0,), "eps_root": (0.0,)},
    ),
    row(
        tf.simplified_ademamix,
        lr=1e-3,
        b1=0.9,
        alpha=2.0,
        weight_decay=0.1,
        eps_root=1e-8,
        optax=Namesake(
            "contrib.simplified_ademamix",
            {"learning_rate": 1e-3, "b1": 0.9, "alpha": 2.0, "weight_decay": 0.1, "eps_root": 1e-8},
        ),
        edges={"b1": (0.0,), "alpha": (0.0,)},
    ),
    row(
        tf.optimistic_adam,
        lr=1e-2,
        alpha=1.5,
        beta=0.5,
        nesterov=True,
        optax=Namesake("optimistic_adam_v2", {"learning_rate": 1e-2, "alpha": 1.5, "beta": 0.5}),
        edges={"beta": (0.0,)},
    ),
    row(
        tf.qhadam,
        lr=1e-2,
        b1=0.9,
        nu2=0.9,
        # The peer sums the weights of its means in float32.
        peer=Namesake("QHAdam", {"lr": 1e-2, "nus": (0.7, 0.9)}, precision=1e-6),
        edges={"nu1": (0.0, 1.0), "nu2": (0.0, 1.0), "eps": (1e-3,)},
    ),
    row(
        tf.adabound,
        lr=1e-2,
        gamma=0.1,
        **as_in_the_peer(b2=0.999),
        peer=Namesake("AdaBound", {"lr": 1e-2, "gamma": 0.1}),
        edges={"b1": (0.0,), "gamma": (10.0,), "final_lr": (0.0, 1e-3)},
        descent={"lr": 0.001, "final_lr": 0.001},
    ),
    row(
        tf.sophia,
        lr=1e-2,
        b2=0.9,
        every=3,
        batch_size=2.0,
        edges={"b1": (0.0,), "eps": (1e-3,), "clip_threshold": (math.inf,), "every": (1.0,)},
    ),
    row(
        tf.sophia,
        "sophia_hutchinson",
        lr=1e-2,
        b2=0.9,
        every=2,
        gamma=0.5,
        estimator="hutchinson",
        estimate_after=True,
        debias=True,
    ),
    row(
        tf.adahessian,
        lr=1e-2,
        b2=0.9,
        eps=1e-8,
        weight_decay=0.1,
        edges={"b1": (0.0,), "eps": (1e-3,)},
    ),
    row(
        tf.mars,
        lr=1e-2,
        weight_decay=0.1,
        gamma=0.1,
        **as_in_the_peer(b2=0.99),
        peer=Namesake("MARS", {"lr": 1e-2, "weight_decay": 0.1, "gamma": 0.1, "optimize_1d": True}),
        edges={"gamma": (0.0,), "b1": (0.0,)},
    ),
)
