"""A new rule is not forgotten anywhere: it is public, has a row, and goes by its namesakes' names in both libraries.

Every row of the catalogue that names an optimizer of torch.optim or optax is that optimizer's drop-in, so there is one
under its name, with its arguments and defaults, and what it remembers is called what the namesake calls it.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import trainfn as tf
import trainfn.rules
from tests.catalogue import ROWS, Namesake
from tests.inputs import loss, numbers
from trainfn.rule import Definition

SHAPES = {"w": (4, 3), "b": (3,)}
# What chooses between torch's implementations.
NOT_TAKEN = {"foreach", "fused", "capturable", "differentiable"}
# How optax and rules count updates, or whether there were any.
COUNTS = {"count", "t", "is_init_step"}
CONSTANTS = {"ns_coeffs", "b1"}  # which optax keeps in the state


def _defined() -> dict[str, Definition]:
    """The rules found in the files of trainfn/rules, under `file.name`."""
    files = [importlib.import_module(f"trainfn.rules.{m.name}") for m in pkgutil.iter_modules(trainfn.rules.__path__)]
    return {
        f"{file.__name__}.{name}": x
        for file in files
        for name, x in vars(file).items()
        if isinstance(x, Definition) and x.function.__module__ == file.__name__
    }


def _of_rows(library: str) -> list[Any]:
    named = [(row, getattr(row, library)) for row in ROWS if getattr(row, library)]
    return [pytest.param(namesake, id=f"{row.name}-{namesake.name}") for row, namesake in named]


def test_every_rule_is_public() -> None:
    for place, definition in _defined().items():
        for module in (trainfn.rules, tf):
            file = module.__name__.replace(".", "/") + "/__init__.py"
            assert getattr(module, definition.name, None) is definition, f"{place} is not public: import it in {file}."


def test_every_rule_has_a_row() -> None:
    with_row = {link.definition for row in ROWS for link in row.rule().all_links}
    for place, definition in _defined().items():
        assert definition in with_row, f"{place} is in no row of tests/catalogue/: add one to the ROWS of its family."


class Moments(NamedTuple):
    m: tf.Array
    s: tf.Array


@tf.rule
def adabelief(state: Moments, g: Any, *, lr: Any = 0.1) -> Any:
    """A user's rule that has the name of one of ours, and nothing else of it."""
    return -lr * g, Moments(g, g)


def test_words_are_for_our_own_rules() -> None:
    from trainfn_jax.state import state_class
    from trainfn_torch.names import Names

    class_of = {rule: state_class(rule())._fields for rule in (adabelief, tf.adabelief)}
    assert class_of == {adabelief: ("count", "m", "s"), tf.adabelief: ("count", "mu", "nu")}
    joined = tf.chain(adabelief(), tf.adam())  # each link has its own words
    assert state_class(joined)._fields == ("count", "adabelief_m", "s", "mu", "nu", "nu_max")
    assert list(Names(joined).state.values()) == ["adabelief.m", "s", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]


# -- torch.optim -------------------------------------------------------------------------------------------------------


def _torch_pair(namesake: Namesake) -> tuple[Any, Any]:
    """torch's class and ours of that name."""
    import torch

    import trainfn_torch

    ours = getattr(trainfn_torch.optim, namesake.name, None)
    assert ours is not None, (
        f"trainfn_torch.optim has no {namesake.name}, which a row of tests/catalogue/ names: add the class to "
        "backends/trainfn_torch/optim.py."
    )
    return getattr(torch.optim, namesake.name), ours


def _on_tensors(make: Any, namesake: Namesake, hyper: Mapping[str, Any]) -> Any:
    """An optimizer over two float64 parameters with a gradient each."""
    import torch

    params = []
    for i, shape in enumerate(namesake.model(SHAPES).values()):
        params.append(torch.from_numpy(numbers(i, shape)).double().requires_grad_())
        params[-1].grad = namesake.gradient(numbers(10 + i, shape).astype(float))
    return make(params, **hyper)


@pytest.mark.parametrize("namesake", _of_rows("torch"))
def test_torchs_arguments(namesake: Namesake) -> None:
    theirs, ours = (inspect.signature(cls).parameters for cls in _torch_pair(namesake))
    where = f"{namesake.name} in backends/trainfn_torch/optim.py"
    for position, (name, parameter) in enumerate(ours.items()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        assert parameter.default == theirs[name].default, f"{where}: the default of {name} is not torch's."
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert list(theirs)[position] == name, f"{where}: {name} does not stand where torch has it."
    their_group, our_group = (_on_tensors(cls, namesake, {}).param_groups[0] for cls in _torch_pair(namesake))
    lacking = their_group.keys() - our_group.keys() - NOT_TAKEN
    assert not lacking, (
        f"{where}: torch's groups also hold {lacking}. Translate a hyperparameter of another name in WORDS, "
        "backends/trainfn_torch/names.py; take what decides the formula as an argument and in `fixed`."
    )


@pytest.mark.parametrize("namesake", _of_rows("torch"))
def test_torchs_states(namesake: Namesake) -> None:
    """They have torch's names, and a run may go over to torch and back."""
    theirs, ours = (_on_tensors(cls, namesake, namesake.hyper) for cls in _torch_pair(namesake))
    theirs.step()
    ours.step()
    their_keys, our_keys = (set(o.state[o.param_groups[0]["params"][0]]) - {"step"} for o in (theirs, ours))
    assert our_keys == their_keys, (
        f"{namesake.name}: torch calls its state {sorted(their_keys)} and here it is {sorted(our_keys)}: translate it "
        "in WORDS, backends/trainfn_torch/names.py."
    )
    saved = theirs.state_dict()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(saved)
    for optimizer in (theirs, ours):
        optimizer.step()
    for a, b in zip(*(o.param_groups[0]["params"] for o in (theirs, ours)), strict=True):
        assert float((a - b).detach().abs().max()) <= 1e-12


# -- optax -------------------------------------------------------------------------------------------------------------


def _optax_pair(namesake: Namesake) -> tuple[Any, Any]:
    import optax

    import trainfn_jax

    inside, _, name = namesake.name.rpartition(".")  # optax.contrib.adopt is trainfn_jax.contrib.adopt
    package = getattr(trainfn_jax, inside) if inside else trainfn_jax
    assert name in package.__all__, (
        f"{package.__name__} has no public {name}, which a row of tests/catalogue/ names: add it to "
        + ("backends/trainfn_jax/contrib.py and its `__all__`." if inside else _PLACES)
    )
    return operator.attrgetter(namesake.name)(optax), getattr(package, name)


_PLACES = "backends/trainfn_jax/optimizers.py, and to the imports and `__all__` of backends/trainfn_jax/__init__.py."


@pytest.mark.parametrize("namesake", _of_rows("optax"))
def test_optaxs_arguments(namesake: Namesake) -> None:
    theirs, ours = (inspect.signature(make).parameters for make in _optax_pair(namesake))
    where = f"{namesake.name} in backends/trainfn_jax/optimizers.py"
    for position, (name, parameter) in enumerate(ours.items()):
        assert parameter.default == theirs[name].default, f"{where}: the default of {name} is not optax's."
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert list(theirs)[position] == name, f"{where}: {name} does not stand where optax has it."


def _own(name: str) -> str:
    """A field's name without what it has of its place: in a partition, and in sm3's list of one array an axis."""
    return re.sub("(?<=^mu)[0-4]$", "", name.removeprefix("muon_"))


@pytest.mark.parametrize("namesake", _of_rows("optax"))
def test_optaxs_states(namesake: Namesake) -> None:
    import jax

    params = {k: numbers(i, shape) for i, (k, shape) in enumerate(SHAPES.items())}
    theirs, ours = (make(**namesake.hyper).init(params) for make in _optax_pair(namesake))
    their_fields, our_fields = (
        {
            _own(key.name)
            for path, x in jax.tree_util.tree_leaves_with_path(state)
            for key in [key for key in path if isinstance(key, jax.tree_util.GetAttrKey)][-1:]
            if np.issubdtype(x.dtype, np.inexact)
            and key.name not in COUNTS | CONSTANTS
            and x.shape != (1,)  # what optax keeps where there is no state
        }
        for state in (theirs, ours)
    )
    assert our_fields == their_fields, (
        f"{namesake.name}: optax calls its state {sorted(their_fields)} and here it is {sorted(our_fields)}: translate "
        "it in STATE, backends/trainfn_jax/vocabulary.py."
    )


@pytest.mark.parametrize("namesake", _of_rows("optax"))
def test_optaxs_updates(namesake: Namesake) -> None:
    import jax

    with jax.enable_x64(True):
        params = {k: numbers(i, shape).astype(float) for i, (k, shape) in enumerate(SHAPES.items())}
        theirs, ours = (make(**namesake.hyper) for make in _optax_pair(namesake))
        state, own = theirs.init(params), ours.init(params)
        for n in range(1, 4):
            grads = {k: numbers(10 * n + i, shape).astype(float) for i, (k, shape) in enumerate(SHAPES.items())}
            expected, state = theirs.update(grads, state, params, value=loss(n))
            updates, own = ours.update(grads, own, params, value=loss(n))
            for k in SHAPES:
                off = namesake.precision
                np.testing.assert_allclose(updates[k], expected[k], atol=off, rtol=off, err_msg=namesake.name)


# Arguments of optax that ours do not have, by function: why is in `trainfn_jax.vocabulary.NOT_TAKEN`, or here.
ABSENT_ARGUMENTS = {
    "MultiSteps": {"accumulator_dtype"},  # whose default is not ours, the parameter's dtype
    "adafactor": {"dtype_momentum"},  # likewise
    "add_noise": {"seed"},  # another word for key
    "noisy_sgd": {"seed"},
    "scale_by_sm3": {"b2"},  # optax's own addition: the paper's sums do not decay
    "contrib.adopt": {"clip_value_fn"},  # a function of the step inside of the rule
    "contrib.scale_by_adopt": {"clip_value_fn"},
}
OTHER_DEFAULTS = {"add_noise": {"key"}, "noisy_sgd": {"key"}}  # optax warns without one, and takes 0


def _names_in_both() -> list[str]:
    import optax

    import trainfn_jax

    names = [name for name in trainfn_jax.__all__ if hasattr(optax, name) and name != "contrib"]
    return names + [f"contrib.{name}" for name in trainfn_jax.contrib.__all__]


@pytest.mark.parametrize("name", _names_in_both())
def test_signature_is_optaxs(name: str) -> None:
    """Every function of optax's names has all of its arguments, in their order, but those of the table."""
    import optax

    import trainfn_jax

    theirs, ours = (dict(inspect.signature(operator.attrgetter(name)(m)).parameters) for m in (optax, trainfn_jax))
    assert theirs.keys() - ours.keys() == ABSENT_ARGUMENTS.get(name, set())
    kept = {argument: parameter.default for argument, parameter in theirs.items() if argument in ours}
    assert [*ours] == [*kept]
    unlike = {argument for argument, default in kept.items() if ours[argument].default != default}
    assert unlike == OTHER_DEFAULTS.get(name, set())
