"""docs/catalogue.md is what the catalogue and the kept numbers make of it, and these are what is counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

import trainfn as tf
from benchmarks import catalogue
from tests.catalogue import BY_NAME, table
from trainfn.verbs import axis_mean, axis_sum, global_norm, square, zeros_like


def test_the_page_is_up_to_date() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run python -m tests.catalogue.table"


@pytest.mark.parametrize(("name", "words"), [("adam", 18), ("sgd_momentum", 8), ("laprop", None)])
def test_words_of_torch_are_counted_as_they_were(name: str, words: int | None) -> None:
    """Of Adam by hand: lerp 3, mul 2, addcmul 3, sqrt 2, div 2, add 2, addcdiv 4."""
    from benchmarks import catalogue_torch

    counted = catalogue_torch.words(BY_NAME[name])
    assert counted == catalogue.read()["rows"][name]["words"]["torch"]
    assert words in (counted, None)


class Rows(NamedTuple):
    v: tf.Array

    @staticmethod
    def init(p: Any) -> Any:
        return Rows(axis_sum(zeros_like(p), -1))


@tf.rule
def by_row(state: Rows, g: Any) -> Any:
    v = state.v + axis_mean(square(g), -1)
    return -g * v, Rows(v)


def test_classes_states_and_words_follow_from_the_program() -> None:
    norms = tf.rule(lambda g: g / global_norm(g))
    rules = [tf.sgd(), norms(), by_row(), tf.muon(), tf.muon(precision="library")]
    classes = [table.class_of(r.program(table.MATRIX)) for r in rules]
    assert classes == ["exact", "reductions", "reductions", "reductions", "bounded"]
    assert [table.words(r) for r in rules] == [3, 5, pytest.approx(9 + 6 / 768), None, None]
    assert table.state_bytes(by_row()) == 4 / 768
    assert table.state_bytes(tf.adam()) == 8


@pytest.mark.parametrize(
    ("text", "citation"),
    [
        ("Lion (Chen et al., arXiv:2302.06675v4).", "Chen et al., [arXiv:2302.06675v4](https://arxiv.org/abs/2302"),
        ("A way up (Ziyin, Wang & Ueda,\n    arXiv:2002.04839v3).", "Ziyin, Wang & Ueda, [arXiv:2002.04839v3](https://arxi"),
        ("Riedmiller & Braun, ICNN 1993. Or others, 1990.", "Riedmiller & Braun, ICNN 1993"),
        ("g + weight_decay p, since 1990.", "-"),
        (None, "-"),
    ],
)  # fmt: skip
def test_the_first_citation(text: str | None, citation: str) -> None:
    assert table.citation(type("Documented", (), {"__doc__": text})).startswith(citation)


def test_what_is_known_is_not_measured_again() -> None:
    data: dict[str, Any] = {"rows": {"adam": {"times": {"torch": [1.0] * 5}}}}
    due = catalogue._due(data, "times", "torch", [])
    assert "adam" not in due
    assert {"adamw", "laprop"} <= set(due)
    assert "lion" not in due  # torch has none
    assert catalogue._due(data, "times", "torch", ["adam", "lion"]) == ["adam"]
    assert "adam" in catalogue._due(data, "words", "jax", [])
    with pytest.raises(SystemExit, match="there is no row adamm"):
        catalogue.main(["times", "adamm"])
    with pytest.raises(SystemExit, match="there is no command 'time'"):
        catalogue.main(["time"])
