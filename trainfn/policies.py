"""Policies: which leaf gets what, by its name or by what is known of it.

A hyperparameter may be a function of the leaf.  `by_leaf` makes one of patterns of names, and holds it to what a table
in a paper means: every leaf is one case, no case is forgotten.  `trainfn.partition` chooses whole rules likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from trainfn.trace import Leaf

Case = str | tuple[str, ...] | Callable[[Leaf], bool]


@dataclass(frozen=True)
class Policy:
    """A function of the leaf: the choice for the one case that the leaf is, or `otherwise`.

    cases: patterns of names, several of them in a tuple, or functions of the leaf that say yes or no.
    choices: what each case gets.
    """

    cases: tuple[Case, ...]
    choices: tuple[Any, ...]
    otherwise: Any = None

    def __call__(self, leaf: Leaf) -> Any:
        return self.choice(leaf)

    def choice(self, leaf: Leaf) -> Any:
        cases = [k for k, case in enumerate(self.cases) if _is(leaf, case)]
        if len(cases) > 1:
            raise ValueError(
                f"leaf {leaf.name!r} of shape {leaf.shape} is {' and '.join(_spell(self.cases[k]) for k in cases)}, "
                "which overlap: every leaf must be one case."
            )
        if cases:
            return self.choices[cases[0]]
        if self.otherwise is None:
            raise ValueError(
                f"leaf {leaf.name!r} of shape {leaf.shape} is none of {', '.join(map(_spell, self.cases))}: give "
                "otherwise=..., or a case that it is."
            )
        return self.otherwise

    def check(self, leaves: Iterable[Leaf]) -> None:
        """Raise unless every case is that of a leaf of this model."""
        leaves = list(leaves)
        idle = [case for case in self.cases if not any(_is(leaf, case) for leaf in leaves)]
        if idle:
            names = ", ".join(leaf.name or str(leaf.shape) for leaf in leaves[:8])
            raise ValueError(
                f"{', '.join(map(_spell, idle))} is no leaf of this model, whose leaves are {names}"
                f"{', ...' if len(leaves) > 8 else ''}: mend the pattern, or leave it out."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """What the cases are called, `otherwise` the last if there is one."""
        return (*map(_spell, self.cases), *([] if self.otherwise is None else ["otherwise"]))

    def describe(self, choices: Sequence[Any]) -> str:
        """The table as it was written, with these choices; the last is `otherwise` if there is one more than cases."""
        cases = ", ".join(f"{_spell(case)}: {x!r}" for case, x in zip(self.cases, choices, strict=False))
        return f"{{{cases}}}" + "".join(f", otherwise={x!r}" for x in choices[len(self.cases) :])

    def __repr__(self) -> str:
        return f"by_leaf({self.describe([*self.choices, *([] if self.otherwise is None else [self.otherwise])])})"


def by_leaf(cases: Mapping[Any, Any], otherwise: Any = None) -> Policy:
    """A hyperparameter for each leaf: the value of the one case the leaf is, or `otherwise`.

        adamw(weight_decay=by_leaf({("*.bias", "*norm*"): 0.0}, otherwise=0.1))

    A case is a pattern of the leaf's name (`*` is anything, also dots and slashes), several patterns in a tuple, or a
    function of the leaf that says yes or no, such as `lambda leaf: leaf.ndim < 2`.  A value is a number or a schedule.

    A leaf that is two cases or none, and a case that no leaf of the model is, are errors.
    """
    return Policy(tuple(cases), tuple(cases.values()), otherwise)


def layer_decay(value: Any, factor: float, layers: Sequence[Case]) -> Policy:
    """value * factor^(n - 1 - k) for the leaves of layer k of n: the last layer has the value itself.

        adamw(lr=layer_decay(warmup_cosine(1e-3, 100, 1000), 0.75, ["embed*", "blocks.0.*", "blocks.1.*", "head*"]))

    The layers are cases as in `by_leaf`, from the input on; the value is a number or a schedule (Clark et al.,
    arXiv:2003.10555v1, who decay the learning rate so in fine-tuning).
    """
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise ValueError(f"layer_decay takes a sequence of layers, each once, not {layers!r}.")
    return by_leaf({case: value * factor ** (len(layers) - 1 - k) for k, case in enumerate(layers)})


def _is(leaf: Leaf, case: Case) -> bool:
    if callable(case):
        return bool(case(leaf))
    if not leaf.name:
        raise ValueError(
            f"{_spell(case)} is a pattern of names, and the parameters were given without: give the optimizer "
            "model.named_parameters(), or a group's param_names."
        )
    return any(fnmatchcase(leaf.name, pattern) for pattern in ([case] if isinstance(case, str) else case))


def _spell(case: Case) -> str:
    return getattr(case, "__name__", repr(case)) if callable(case) else repr(case)
