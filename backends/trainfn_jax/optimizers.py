"""trainfn's rules under optax's names, with optax's arguments and defaults.

    tx = trainfn_jax.adamw(1e-3)                        # where it said optax.adamw(1e-3)
    tx = trainfn_jax.adamw(optax.cosine_decay_schedule(1e-3, 1000))
    tx = optax.inject_hyperparams(trainfn_jax.adamw)(learning_rate=1e-3)

An argument may be a number, an array, a trainfn schedule or, as in optax, any function of the count.  (Functions of the
leaf are for `trainfn_jax.transform` of the rule itself; where optax has a `mask`, there is one.)  Of the arguments of
`NOT_TAKEN` in `trainfn_jax.vocabulary` some may be given as what they are by default; others are missing, and what
follows one is keyword-only, so that no position means something else than it does in optax.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax  # type: ignore[import-untyped]

import trainfn
from trainfn.hyperparameters import is_leaf_function
from trainfn.rule import Definition, Rule
from trainfn_jax.hyperparameters import OptaxSchedule
from trainfn_jax.layout import Flat, Layout
from trainfn_jax.masks import masked
from trainfn_jax.transform import Options, kept_as, transformed
from trainfn_jax.vocabulary import ARGUMENTS, HYPERPARAMETERS, NOT_TAKEN

Factory = Callable[..., optax.GradientTransformationExtraArgs]

REQUIRED = inspect.Parameter.empty
KEYWORD = "keyword-only from here"
MASKS = ("mask", "weight_decay_mask")

_DOC = """{name} in trainfn's arithmetic.

An argument is a number, a 0-d array, a trainfn schedule or, as in optax, a function of the count of updates; options
(None, True, a string) choose the formula.  No argument is a function of the leaf: such a function goes to the rule,

    trainfn_jax.transform(trainfn.{rule_name}({example}=lambda leaf: 0.1 if leaf.ndim > 1 else 0.0))

{mask}The rule, with trainfn's own defaults:

{rule}"""

_MASK_DOC = """\
{mask} says which leaves are decayed: a tree of booleans shaped like the parameters, the upper part of such a tree, or a
function of the parameters that makes one.

"""


def optimizer(
    rule: Definition,
    *arguments: tuple[str, Any] | str,
    name: str = "",
    within: str = "optax",
    around: Definition | None = None,
    layout: Callable[[Rule], Layout] = Flat,
    state_dtype: str = "",
    coupled: bool = False,
    **fixed: Any,
) -> Factory:
    """`rule` as a function of optax's arguments (name and default).

    It has the rule's name unless `name` is given, and its namesake is `within` that module; `fixed` are options optax
    leaves no choice of.  `around` is what stands around the rule, `layout` the shape of the state.  The argument
    `state_dtype` says what dtype the state has, of a rule whose only array optax has it for.  With `coupled` the
    argument weight_decay is `coupled_weight_decay` before the rule, which has none.
    """
    name = name or rule.name
    signature = _signature(arguments)

    def make(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            names = ", ".join(signature.parameters)
            unknown = sorted((kwargs.keys() - signature.parameters.keys()) & NOT_TAKEN.keys())
            instead = "".join(f"  Of {argument}: {NOT_TAKEN[argument]}." for argument in unknown)
            raise TypeError(f"{name}: {error}; its arguments are {names}.{instead}") from None
        bound.apply_defaults()
        options = Options(state_dtype=kept_as(bound.arguments.pop(state_dtype, None)))
        for argument in bound.arguments.keys() & NOT_TAKEN.keys():
            expect_default(name, argument, bound.arguments.pop(argument), signature.parameters[argument].default)
        mask = next((bound.arguments.pop(k) for k in MASKS if k in bound.arguments), None)
        for argument, value in bound.arguments.items():
            if any(ours in rule.options for ours, _ in _hyperparameters(rule, argument, value)):
                expect_known(name, argument, value)
        hyper = {
            ours: as_hyperparameter(f"{name}'s {argument}", x)
            for argument, value in bound.arguments.items()
            for ours, x in _hyperparameters(rule, argument, value)
        }

        def whole(**other: Any) -> Rule:
            given = {**fixed, **hyper, **other}
            decay = given.pop("weight_decay", None) if coupled else None
            made = rule(**given)
            made = made if around is None else around(made)
            return made if _is_none(decay) else trainfn.chain(trainfn.coupled_weight_decay(weight_decay=decay), made)

        if mask is None or mask is True or hyper["weight_decay"] is None:
            return transformed(whole(), layout, options).for_optax
        return masked(lambda decay: whole(weight_decay=decay), hyper["weight_decay"], mask, layout, options).for_optax

    make.__name__ = make.__qualname__ = name
    make.__doc__ = _doc(f"{within}.{name}", rule, next((k for k in MASKS if k in signature.parameters), ""))
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make


def _signature(arguments: tuple[tuple[str, Any] | str, ...]) -> inspect.Signature:
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = []
    for argument in arguments:
        if isinstance(argument, str):
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        name, default = argument
        # optax's tools recognise an argument that may be a schedule by this very object.
        annotation = optax.ScalarOrSchedule if name == "learning_rate" else Any
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
    return inspect.Signature(parameters, return_annotation=optax.GradientTransformationExtraArgs)


_OURS = {theirs: (ours,) for ours, theirs in HYPERPARAMETERS.items()} | dict(ARGUMENTS)


def _hyperparameters(rule: Definition, argument: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The hyperparameters that an argument of optax stands for, by trainfn's names."""
    names = (argument,) if argument in rule.defaults else _OURS.get(argument, (argument,))
    return zip(names, value if len(names) > 1 else (value,), strict=True)


def _doc(name: str, rule: Definition, mask: str) -> str:
    example = next((k for k in ("weight_decay", "lr", *rule.defaults) if k in rule.defaults), "")
    text = inspect.cleandoc(rule.__doc__ or "")
    of_mask = _MASK_DOC.format(mask=mask) if mask else ""
    return _DOC.format(name=name, rule_name=rule.name, example=example, mask=of_mask, rule=text)


def _is_none(decay: Any) -> bool:
    """Whether there is no decay; of an array nobody knows."""
    return decay is None or (isinstance(decay, int | float) and decay == 0)


def expect_default(name: str, argument: str, value: Any, default: Any) -> None:
    """An error for any other value of an argument that is not taken.

    `optax.inject_hyperparams` makes arrays of numbers, which are traced in updates: what they are is seen in init.
    """
    if isinstance(value, jax.core.Tracer):
        return
    is_equal = isinstance(value, int | str) or (isinstance(value, jax.Array) and value.ndim == 0)
    if value is not default and not (is_equal and value == default):
        raise TypeError(f"{name}: {argument} can only be {default!r} here, not {value!r}; {NOT_TAKEN[argument]}.")


def expect_known(name: str, argument: str, value: Any) -> None:
    """An error for an array, whose value nobody knows under jit, in the place of what chooses the program."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name}: {argument} chooses the program, and cannot be an array: write "
            f"optax.inject_hyperparams({name}, static_args={argument!r}), which leaves it as it is."
        )


def as_hyperparameter(argument: str, value: Any) -> Any:
    """Of optax's functions: what would be asked about the leaf elsewhere is a schedule here."""
    if isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{argument} is a number or a schedule, and was given a transformation: one that scales updates, such as "
            "reduce_on_plateau(), stands after the optimizer, as in trainfn_jax.chain(trainfn_jax.adamw(1e-3), "
            "trainfn_jax.contrib.reduce_on_plateau()), whose update(..., value=loss) is given the loss."
        )
    return OptaxSchedule(value, argument) if is_leaf_function(value) else value


LEARNING_RATE = ("learning_rate", REQUIRED)
MOMENTS = (("b1", 0.9), ("b2", 0.999), ("eps", 1e-8))
DECAY = (("weight_decay", 1e-4), ("mask", None))
NESTEROV = ("nesterov", False)
EPS_ROOT = ("eps_root", 0.0)
MU_DTYPE = ("mu_dtype", None)
ACCUMULATOR_DTYPE = ("accumulator_dtype", None)
BIAS_CORRECTION = (("bias_correction_mu", True), ("bias_correction_nu", True))

sgd = optimizer(
    trainfn.sgd, LEARNING_RATE, ("momentum", None), NESTEROV, ACCUMULATOR_DTYPE, state_dtype="accumulator_dtype"
)
adam = optimizer(trainfn.adam, LEARNING_RATE, *MOMENTS, EPS_ROOT, MU_DTYPE, KEYWORD, NESTEROV)
adamw = optimizer(trainfn.adamw, LEARNING_RATE, *MOMENTS, EPS_ROOT, MU_DTYPE, *DECAY, KEYWORD, NESTEROV)
nadam = optimizer(trainfn.adam, LEARNING_RATE, *MOMENTS, EPS_ROOT, MU_DTYPE, KEYWORD, ("nesterov", True), name="nadam")
nadamw = optimizer(
    trainfn.adamw,
    LEARNING_RATE,
    *MOMENTS,
    EPS_ROOT,
    MU_DTYPE,
    *DECAY,
    KEYWORD,
    ("nesterov", True),
    name="nadamw",
)
amsgrad = optimizer(
    trainfn.adam,
    LEARNING_RATE,
    *MOMENTS,
    EPS_ROOT,
    MU_DTYPE,
    *BIAS_CORRECTION,
    name="amsgrad",
    amsgrad=True,
    max_of_debiased=True,
)
adamax = optimizer(trainfn.adamax, LEARNING_RATE, *MOMENTS)
adamaxw = optimizer(trainfn.adamaxw, LEARNING_RATE, *MOMENTS, *DECAY)
adabelief = optimizer(
    trainfn.adabelief,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-16),
    ("eps_root", 1e-16),
    KEYWORD,
    NESTEROV,
)
yogi = optimizer(trainfn.yogi, LEARNING_RATE, ("b1", 0.9), ("b2", 0.999), ("eps", 1e-3))
adan = optimizer(
    trainfn.adan,
    LEARNING_RATE,
    ("b1", 0.98),
    ("b2", 0.92),
    ("b3", 0.99),
    ("eps", 1e-8),
    ("eps_root", 1e-8),
    ("weight_decay", 0.0),
    ("mask", None),
    one_minus_b2=True,
)
optimistic_gradient_descent = optimizer(
    trainfn.optimistic_gradient_descent, LEARNING_RATE, ("alpha", 1.0), ("beta", 1.0)
)
optimistic_adam_v2 = optimizer(
    trainfn.optimistic_adam,
    LEARNING_RATE,
    KEYWORD,
    ("alpha", 1.0),
    ("beta", 1.0),
    *MOMENTS,
    EPS_ROOT,
    MU_DTYPE,
    ("nesterov", True),
    name="optimistic_adam_v2",
)
lion = optimizer(
    trainfn.lion,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.99),
    MU_DTYPE,
    ("weight_decay", 1e-3),
    ("mask", None),
    state_dtype="mu_dtype",
)
sign_sgd = optimizer(trainfn.sign_sgd, LEARNING_RATE)
noisy_sgd = optimizer(trainfn.noisy_sgd, LEARNING_RATE, ("eta", 0.01), ("gamma", 0.55), ("key", 0))
signum = optimizer(trainfn.signum, LEARNING_RATE, ("beta", 0.9), ACCUMULATOR_DTYPE, state_dtype="accumulator_dtype")
radam = optimizer(trainfn.radam, LEARNING_RATE, *MOMENTS, EPS_ROOT, ("threshold", 5.0), KEYWORD, NESTEROV)
rmsprop = optimizer(
    trainfn.rmsprop,
    LEARNING_RATE,
    ("decay", 0.9),
    ("eps", 1e-8),
    ("initial_scale", 0.0),
    ("eps_in_sqrt", True),
    ("centered", False),
    ("momentum", None),
    ("nesterov", False),
    ("bias_correction", False),
    lr_in_momentum=True,
)
adagrad = optimizer(trainfn.adagrad, LEARNING_RATE, ("initial_accumulator_value", 0.1), ("eps", 1e-7), eps_in_sqrt=True)
lamb = optimizer(
    trainfn.lamb,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-6),
    EPS_ROOT,
    ("weight_decay", 0.0),
    ("mask", None),
)
lars = optimizer(
    trainfn.lars,
    LEARNING_RATE,
    ("weight_decay", 0.0),
    ("weight_decay_mask", True),
    ("trust_coefficient", 0.001),
    ("eps", 0.0),
    ("trust_ratio_mask", True),
    ("momentum", 0.9),
    ("nesterov", False),
)
fromage = optimizer(trainfn.fromage, LEARNING_RATE, ("min_norm", 1e-6))
novograd = optimizer(
    trainfn.novograd, LEARNING_RATE, ("b1", 0.9), ("b2", 0.25), ("eps", 1e-6), EPS_ROOT, ("weight_decay", 0.0)
)
polyak_sgd = optimizer(
    trainfn.polyak_sgd,
    ("max_learning_rate", 1.0),
    ("scaling", 1.0),
    ("f_min", 0.0),
    ("eps", 0.0),
    ("variant", "sps"),
)
adadelta = optimizer(
    trainfn.adadelta,
    ("learning_rate", None),
    ("rho", 0.9),
    ("eps", 1e-6),
    ("weight_decay", 0.0),
    ("weight_decay_mask", None),
    coupled=True,
)
adafactor = optimizer(
    trainfn.adafactor,
    ("learning_rate", None),
    ("min_dim_size_to_factor", 128),
    ("decay_rate", 0.8),
    ("decay_offset", 0),
    ("multiply_by_parameter_scale", True),
    ("clipping_threshold", 1.0),
    ("momentum", None),
    KEYWORD,
    ("weight_decay_rate", None),
    ("eps", 1e-30),
    ("factored", True),
    ("weight_decay_mask", None),
    relative_step=False,
    lr_in_decay=False,
    largest_axes=True,
)
sm3 = optimizer(trainfn.sm3, LEARNING_RATE, ("momentum", 0.9))
rprop = optimizer(
    trainfn.rprop,
    LEARNING_RATE,
    ("eta_minus", 0.5),
    ("eta_plus", 1.2),
    ("min_step_size", 1e-6),
    ("max_step_size", 50.0),
)
