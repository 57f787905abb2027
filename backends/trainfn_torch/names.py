"""torch.optim's words for the core's: what a state entry and a group's key are called.

The table is data, by rule of trainfn's; what it does not name keeps the core's name.  Some hyperparameters stand
together under one key: `b1`, `b2` under `betas`, where torch's momentum-cycling schedulers look for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainfn.rule import Rule
from trainfn.tracing import walk_structures


@dataclass(frozen=True)
class Words:
    """One rule's translation, from the core's names to torch's; and whether torch.optim's counts its updates."""

    state: Mapping[str, str] = field(default_factory=dict)
    hyper: Mapping[str, str] = field(default_factory=dict)
    counts: bool = True


_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

WORDS: Mapping[str, Words] = {
    "adam": Words(_MOMENTS),
    "adamw": Words(_MOMENTS),
    "radam": Words(_MOMENTS),
    "lion": Words(_MOMENTS),
    "sgd": Words({"buf": "momentum_buffer"}, counts=False),
    "rmsprop": Words({"v": "square_avg", "mean": "grad_avg", "buf": "momentum_buffer"}, {"decay": "alpha"}),
    "adagrad": Words({"s": "sum"}),
    "adamax": Words({"m": "exp_avg", "u": "exp_inf"}),
    "nadam": Words(_MOMENTS),
    "adafactor": Words({"rows": "row_var", "columns": "col_var", "v": "variance"}),
    "muon": Words({"m": "momentum_buffer"}, counts=False),
    "adadelta": Words({"v": "square_avg", "d": "acc_delta"}),
}

_TOGETHER: Mapping[str, tuple[str, ...]] = {
    "betas": ("b1", "b2", "b3"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("min_step_size", "max_step_size"),
}


@dataclass(frozen=True)
class Key:
    """One key of a parameter group and the hyperparameters it holds, in the order of the tuple if several."""

    name: str
    hyper: tuple[str, ...]

    @property
    def is_tuple(self) -> bool:
        return len(self.hyper) > 1


class Names:
    """The names of one rule: `keys` of a group, and `state` and its inverse `field`; whether torch.optim `counts`."""

    def __init__(self, rule: Rule) -> None:
        self.state: dict[str, str] = {}
        self.counts = True
        hyper: dict[str, str] = {}
        for structure in walk_structures(rule.structure):
            words = WORDS.get(structure.definition.known_as, Words())
            self.counts &= words.counts
            _translate(self.state, structure.state, words.state)
            _translate(hyper, structure.hyper, words.hyper)
        self.field = {torch_name: name for name, torch_name in self.state.items()}
        self.keys = tuple(_keys([(n, hyper[n]) for n in rule.hyper]))
        self.key_of = {name: key for key in self.keys for name in key.hyper}


def _translate(names: dict[str, str], local: Sequence[tuple[str, str]], words: Mapping[str, str]) -> None:
    """Translate names such as `m` or, of an earlier link, `sgd.buf`; a word that is taken is not used again."""
    for own, name in local:
        prefix = name.removesuffix(own)
        translated = prefix + words.get(own, own)
        names.setdefault(name, name if translated in names.values() else translated)


def _keys(hyper: Sequence[tuple[str, str]]) -> Iterator[Key]:
    names = {name for name, _ in hyper}
    for name, torch_name in hyper:
        prefix, _, own = name.rpartition(".")
        dot = f"{prefix}." if prefix else ""
        key, parts = next(((k, parts) for k, parts in _TOGETHER.items() if own in parts), (own, (own,)))
        present = tuple(dot + part for part in parts if dot + part in names)
        if len(present) == 1:
            yield Key(torch_name, present)
        elif name == present[0]:
            yield Key(dot + key, present)
