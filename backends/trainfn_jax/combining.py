"""optax's combinators: of transformations of ours they make one, whose rule is one program.

    tx = trainfn_jax.chain(trainfn_jax.clip_by_global_norm(1.0), trainfn_jax.adamw(1e-3))

is the rule `trainfn.chain(clip_by_global_norm(1.0), adamw(...))`, with its bits: nothing is rounded between the links,
and one of them can skip the update of all.  Its state is `optax.chain`'s of the same links.  Transformations of other
libraries may stand between; what is next to each other among ours is still one program.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optax  # type: ignore[import-untyped]

import trainfn
from trainfn.policies import Policy
from trainfn.rule import Partition, Rule, names_in
from trainfn.trace import Leaf
from trainfn_jax import trees
from trainfn_jax.layout import Around, Empty, Flat, Layout, Part, several
from trainfn_jax.masks import by_leaf
from trainfn_jax.transform import Options, Transformation, combined, found

_NOTHING = Rule(())  # hands on what it is given


def chain(*args: Any) -> optax.GradientTransformationExtraArgs:
    """`optax.chain`, as one program where neighbours are transformations of trainfn_jax.

    The state is a tuple with that of each transformation, as in optax.  Between links nothing is rounded to the
    gradient's dtype, as optax does in 16 bits.  They have one count of updates, which stands in each of their states
    that has one: of counts that differ, as after editing one, the first is taken.  A link that skips updates, or
    counts some only, does so for those beside it, as in `trainfn.chain`.

    Transformations that `transform` was asked for with other options than the rest (`state_dtype`, `axis_name`,
    `rename`) are another program; links that remember nothing take on those of their neighbours.
    """
    groups: list[list[Any]] = []
    for tx in args:
        if groups and _are_one([*groups[-1], tx]):
            groups[-1].append(tx)
        else:
            groups.append([tx])
    joined = [_joined(group) for group in groups]
    if len(joined) == 1:
        return joined[0]

    def init(params: Any) -> Any:
        return tuple(itertools.chain.from_iterable(tx.init(params) for tx in joined))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        if len(state) != len(args):
            raise TypeError(f"the state of a chain of {len(args)} has as many parts, not {len(state)}.")
        remaining, after = iter(state), []
        for group, tx in zip(groups, joined, strict=True):
            updates, new = tx.update(updates, tuple(itertools.islice(remaining, len(group))), params, **extra_args)
            after += new
        return updates, tuple(after)

    return optax.GradientTransformationExtraArgs(init, update)


def _are_one(txs: Sequence[Any]) -> bool:
    """Whether transformations can be one program, or one chain of optax."""
    own = [x for x in map(found, txs) if x is not None]
    return not own or (len(own) == len(txs) and len({x.options for x in own if not _adapts(x)}) <= 1)


def _adapts(own: Transformation) -> bool:
    """Whether a transformation means the same with any options."""
    return own.options == Options() and own.layout == Empty() and own.rule_of is None


def _options(own: Sequence[Transformation]) -> Options:
    """Of transformations that can be one program."""
    return next((x.options for x in own if not _adapts(x)), Options())


def _joined(txs: list[Any]) -> optax.GradientTransformationExtraArgs:
    own = [x for x in map(found, txs) if x is not None]
    if not own:
        return optax.chain(*txs)

    def layout(rule: Rule) -> Layout:
        return several(rule, [(x.rule, x.layout) for x in own])

    return combined(trainfn.chain, own, layout, _options(own)).for_optax


# -- parts of the model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels(Policy):
    """Which leaf has which choice, by name; equal labels are the same program."""

    named: tuple[tuple[str, int], ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return dict(self.named)

    def choice(self, leaf: Leaf) -> Any:
        return self._by_name[leaf.name]

    def check(self, leaves: Any) -> None:
        """As in optax a label may be that of no leaf."""


def partition(
    transforms: Mapping[Hashable, Any], param_labels: Any, *, mask_compatible_extra_args: bool = False
) -> optax.GradientTransformationExtraArgs:
    """`optax.partition`: another transformation for each leaf, by labels: a tree of them, or of its upper part, or a
    function of the parameters that makes one.

    Of transformations of trainfn_jax it is one program, as `trainfn.partition` is: the state is one named tuple, and
    reductions over the model are over the leaves that have the rule.  Otherwise it is optax's own.
    """
    own = [x for x in map(found, transforms.values()) if x is not None]
    if not own or not _are_one(list(transforms.values())):
        return optax.partition(transforms, param_labels, mask_compatible_extra_args=mask_compatible_extra_args)
    made = _partition(list(transforms), own, param_labels, "tree of labels")
    return Transformation(made.rule, Flat(made.rule), made.options, made.rule_of, made.start_of).for_optax


multi_transform = partition


def _partition(labels: list[Any], own: list[Transformation], marks: Any, what: str) -> Transformation:
    """Of transformations with these labels; its layout is that of the first."""
    options = _options(own)

    def rule_of(tree: Any, rules: tuple[Rule, ...]) -> Rule:
        chosen = by_leaf(what, marks, tree) if trees.names(tree) else {}  # optax calls init with a placeholder
        unknown = sorted({str(label) for label in chosen.values() if label not in labels})
        if unknown:
            known = ", ".join(map(str, labels))
            raise ValueError(f"no transformation is called {', '.join(unknown)}; there are {known}.")
        return _of_labels(rules, tuple((options.rename(k), labels.index(label)) for k, label in chosen.items()))

    rule = _of_labels(tuple(x.rule for x in own), ())
    return Transformation(
        rule,
        own[0].layout,
        options,
        lambda updates: rule_of(updates, tuple(x.at(updates) for x in own)),
        lambda params: rule_of(params, tuple(x.at_start(params) for x in own)),
    )


def _of_labels(rules: tuple[Rule, ...], named: tuple[tuple[str, int], ...]) -> Rule:
    cases = tuple(str(k) for k in range(len(rules)))
    return Rule((Partition(Labels(cases, tuple(range(len(rules))), None, named), rules),))


def masked(inner: Any, mask: Any, *, mask_compatible_extra_args: bool = False) -> optax.GradientTransformationExtraArgs:
    """`optax.masked`: the transformation where the mask is true; the gradients of other leaves are handed on."""
    own = found(inner)
    if own is None:
        return optax.masked(inner, mask, mask_compatible_extra_args=mask_compatible_extra_args)
    made = _partition([True, False], [own, Transformation(_NOTHING, Empty(), own.options)], mask, "mask")
    layout = Around(optax.MaskedState, {}, "inner_state", Part(own.layout, names_in(made.rule, own.rule, 0)), {})
    return Transformation(made.rule, layout, made.options, made.rule_of, made.start_of).for_optax


def set_to_zero() -> optax.GradientTransformationExtraArgs:
    """`optax.set_to_zero`: no updates."""
    return Transformation(trainfn.frozen(), Empty()).for_optax


def identity() -> optax.GradientTransformationExtraArgs:
    """`optax.identity`: what it is given."""
    return Transformation(_NOTHING, Empty()).for_optax


def freeze(mask: Any) -> optax.GradientTransformationExtraArgs:
    """`optax.freeze`: no updates where the mask is true; other leaves' are handed on."""
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: Any, *, freeze_mask: Any) -> optax.GradientTransformationExtraArgs:
    """`optax.selective_transform`: the transformation where the mask is false, and no updates where it is true."""
    return partition({False: optimizer, True: set_to_zero()}, freeze_mask)
