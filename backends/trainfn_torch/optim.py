"""Rules under the names, arguments and defaults of torch.optim, to be put in its place.

    optimizer = trainfn_torch.optim.AdamW(model.parameters(), lr=1e-3)

Numbers may also be schedules or functions of the leaf.  Keyword arguments beyond torch's (`execution`, `unscales`) are
`Optimizer`'s.  Of those that choose between torch's implementations, `fused` and `foreach` choose the execution of that
name, with the same bits; every one is `capturable`, none `differentiable`.  Momentum that is 0 keeps no buffer, as in
torch, and cannot be changed later.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from trainfn import hyperparameters, rules
from trainfn.rule import Rule, chain
from trainfn_torch.optimizer import Optimizer

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]

# What torch.optim has and this module has not: what to use instead.
ABSENT: Mapping[str, str] = {
    "LBFGS": "torch.optim.LBFGS: a line search calls the model, which no rule does",
    "SparseAdam": "torch.optim.SparseAdam: rules take dense gradients",
}

if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> object:
        instead = f": use {ABSENT[name]}." if name in ABSENT else "."
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{instead}", name=name)


class _Namesake(Optimizer):
    """An optimizer that torch has, too, with what all of torch's take."""

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        execution: str | None = None,
        fixed: Mapping[str, bool | float] | None = None,
        maximize: bool = False,
        unscales: bool = True,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise TypeError(f"{type(self).__name__} has no argument {name}{_known_instead(name, type(self))}")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if differentiable:
            raise ValueError("differentiable steps are not built; leave differentiable False, or use torch.optim's.")
        execution = execution or ("fused" if fused else "foreach" if foreach else None)
        super().__init__(params, rule, maximize=maximize, execution=execution, unscales=unscales, fixed=fixed)


def _known_instead(name: str, made: type[_Namesake]) -> str:
    names = [n for n in inspect.signature(made).parameters if n not in ("params", "options")]
    names += [
        n for n, p in inspect.signature(_Namesake).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "fixed"
    ]
    close = hyperparameters.nearest(name, names)
    return f"; did you mean {close[0]}?" if close else f"; it has {', '.join(dict.fromkeys(names))}."


class AdamW(_Namesake):
    """torch.optim.AdamW: `trainfn.rules.adamw`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        rule = rules.adamw(lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        super().__init__(params, rule, fixed={"amsgrad": amsgrad, "decoupled_weight_decay": True}, **options)


class Adam(_Namesake):
    """torch.optim.Adam: `trainfn.rules.adam` after `coupled_weight_decay`, or `adamw`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        if decoupled_weight_decay:
            rule = rules.adamw(lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        else:
            rule = _coupled(weight_decay, rules.adam(lr=lr, b1=b1, b2=b2, eps=eps, amsgrad=amsgrad))
        fixed = {"amsgrad": amsgrad, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, rule, fixed=fixed, **options)


class RAdam(_Namesake):
    """torch.optim.RAdam: `trainfn.rules.radam` between weight decays."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        decoupled_weight_decay: bool = False,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        rule = rules.radam(lr=lr, b1=b1, b2=b2, eps=eps, eps_before_debias=True)
        rule = (_decoupled if decoupled_weight_decay else _coupled)(weight_decay, rule)
        super().__init__(params, rule, fixed={"decoupled_weight_decay": decoupled_weight_decay}, **options)


class NAdam(_Namesake):
    """torch.optim.NAdam: `trainfn.rules.nadam` between weight decays."""

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        momentum_decay: Any = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        rule = rules.nadam(lr=lr, b1=b1, b2=b2, eps=eps, momentum_decay=momentum_decay)
        rule = (_decoupled if decoupled_weight_decay else _coupled)(weight_decay, rule)
        super().__init__(params, rule, fixed={"decoupled_weight_decay": decoupled_weight_decay}, **options)


class Adamax(_Namesake):
    """torch.optim.Adamax: `trainfn.rules.adamax` after `coupled_weight_decay`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        super().__init__(params, _coupled(weight_decay, rules.adamax(lr=lr, b1=b1, b2=b2, eps=eps)), **options)


class SGD(_Namesake):
    """torch.optim.SGD: `trainfn.rules.sgd` after `coupled_weight_decay`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: Any = 0.0,
        dampening: Any = 0.0,
        weight_decay: Any = 0.0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        if nesterov and (_is_zero(momentum) or not _is_zero(dampening)):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        rule = rules.sgd(
            lr=lr,
            momentum=None if _is_zero(momentum) else momentum,
            dampening=None if _is_zero(dampening) else dampening,
            nesterov=nesterov,
        )
        fixed = {"nesterov": nesterov, **_zeros(momentum=momentum, dampening=dampening)}
        super().__init__(params, _coupled(weight_decay, rule), fixed=fixed, **options)


class RMSprop(_Namesake):
    """torch.optim.RMSprop: `trainfn.rules.rmsprop` after `coupled_weight_decay`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: Any = 0.99,
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        momentum: Any = 0.0,
        centered: bool = False,
        **options: Any,
    ) -> None:
        rule = rules.rmsprop(
            lr=lr, decay=alpha, eps=eps, momentum=None if _is_zero(momentum) else momentum, centered=centered
        )
        fixed = {"centered": centered, **_zeros(momentum=momentum)}
        super().__init__(params, _coupled(weight_decay, rule), fixed=fixed, **options)


class Adagrad(_Namesake):
    """torch.optim.Adagrad: `trainfn.rules.adagrad` after `coupled_weight_decay`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: Any = 0.0,
        weight_decay: Any = 0.0,
        initial_accumulator_value: Any = 0.0,
        eps: Any = 1e-10,
        **options: Any,
    ) -> None:
        rule = rules.adagrad(lr=lr, lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        super().__init__(params, _coupled(weight_decay, rule), **options)


class Adadelta(_Namesake):
    """torch.optim.Adadelta: `trainfn.rules.adadelta` after `coupled_weight_decay`."""

    def __init__(
        self, params: Any, lr: Any = 1.0, rho: Any = 0.9, eps: Any = 1e-6, weight_decay: Any = 0.0, **options: Any
    ) -> None:
        super().__init__(params, _coupled(weight_decay, rules.adadelta(lr=lr, rho=rho, eps=eps)), **options)


class Adafactor(_Namesake):
    """torch.optim.Adafactor: `trainfn.rules.adafactor` with a floor.

    Its groups hold `beta2_decay` and `eps` for torch to read; a step reads `decay`, `eps1` and `eps2`.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, Any] = (None, 1e-3),
        d: Any = 1.0,
        weight_decay: Any = 0.0,
        **options: Any,
    ) -> None:
        eps1, eps2 = _pair(eps, "eps", "eps1 (None for the precision of the parameters), eps2")
        if eps1 is None:
            params = list(params)
            eps1 = torch.finfo(_first(params).dtype).eps
        rule = rules.adafactor(
            lr=lr, decay=-beta2_decay, eps1=eps1, eps2=eps2, d=d, weight_decay=weight_decay, eps1_is_floor=True
        )
        fixed: Any = {"beta2_decay": beta2_decay, "eps": eps}
        super().__init__(params, rule, fixed=fixed, **options)


class Muon(_Namesake):
    """torch.optim.Muon: `trainfn.rules.muon`, whose products see some 20 bits of each number, where bfloat16 has 8."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        weight_decay: Any = 0.1,
        momentum: Any = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: Any = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **options: Any,
    ) -> None:
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"adjust_lr_fn = {adjust_lr_fn!r} must be 'original' or 'match_rms_adamw'.")
        rule = rules.muon(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            coefficients=tuple(ns_coefficients),
            eps=eps,
            steps=ns_steps,
            consistent_rms=0.2 if adjust_lr_fn == "match_rms_adamw" else None,
        )
        fixed: Any = {
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, rule, fixed=fixed, **options)
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        f"Muon takes matrices, and a parameter has shape {tuple(p.shape)}: give vectors to AdamW, or "
                        "trainfn_torch.Optimizer a partition; trainfn.muon takes convolutions, too."
                    )


class Rprop(_Namesake):
    """torch.optim.Rprop: `trainfn.rules.rprop`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[Any, Any] = (0.5, 1.2),
        step_sizes: tuple[Any, Any] = (1e-6, 50),
        **options: Any,
    ) -> None:
        eta_minus, eta_plus = _pair(etas, "etas", "eta_minus, eta_plus")
        smallest, largest = _pair(step_sizes, "step_sizes", "the smallest, the largest")
        rule = rules.rprop(lr=lr, eta_minus=eta_minus, eta_plus=eta_plus, min_step_size=smallest, max_step_size=largest)
        super().__init__(params, rule, **options)


class ASGD(_Namesake):
    """torch.optim.ASGD: `trainfn.rules.asgd` after `coupled_weight_decay`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: Any = 1e-4,
        alpha: Any = 0.75,
        t0: Any = 1e6,
        weight_decay: Any = 0.0,
        **options: Any,
    ) -> None:
        rule = rules.asgd(lr=lr, lambd=lambd, alpha=alpha, t0=t0)
        super().__init__(params, _coupled(weight_decay, rule), **options)


class Lion(_Namesake):
    """Lion as in its paper's code, which torch.optim has not: `trainfn.rules.lion`."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-4,
        betas: tuple[Any, Any] = (0.9, 0.99),
        weight_decay: Any = 0.0,
        **options: Any,
    ) -> None:
        b1, b2 = _pair(betas)
        super().__init__(params, rules.lion(lr=lr, b1=b1, b2=b2, weight_decay=weight_decay), **options)


def _coupled(weight_decay: Any, rule: Rule) -> Rule:
    """The rule after torch's weight decay, also where that is 0 for now: it stands in the groups and can be changed."""
    return chain(rules.coupled_weight_decay(weight_decay=weight_decay), rule)


def _decoupled(weight_decay: Any, rule: Rule) -> Rule:
    """The rule before torch's decoupled weight decay."""
    return chain(rule, rules.decoupled_weight_decay(weight_decay=weight_decay))


def _first(params: Any) -> torch.Tensor:
    """The first parameter, of all the ways to give them: as torch takes a whole model's precision from it."""
    first = params[0]
    if isinstance(first, dict):
        return _first(list(first["params"]))
    tensor: torch.Tensor = first[1] if isinstance(first, tuple) else first
    return tensor


def _pair(values: Any, name: str = "betas", what: str = "b1, b2") -> tuple[Any, Any]:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError(f"{name} = {values!r} must be a tuple of 2: {what}.")
    if name == "betas" and any(x is None for x in values):  # which rules take, and torch does not
        raise ValueError(f"{name} = {values!r} must be a tuple of 2: {what}, neither of them None.")
    return values[0], values[1]


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _zeros(**values: Any) -> dict[str, float]:
    """Those that are 0, for which the rule is made without them."""
    return {name: 0 for name, value in values.items() if _is_zero(value)}
