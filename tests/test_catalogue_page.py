"""docs/catalogue.md is what the catalogue and the kept numbers make of it, and these are what is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import optax
import pytest
import pytorch_optimizer
import torch

import trainfn as tf
import trainfn_jax
import trainfn_torch
from benchmarks import catalogue
from tests.catalogue import BY_NAME, ROWS, SCHEDULES, Row, names, table
from tests.catalogue.adam import over_debias
from tests.catalogue.calls import call, call_of_schedule
from tests.catalogue.names import Entry
from trainfn.rule import resolve
from trainfn.verbs import axis_mean, axis_sum, global_norm, square, zeros_like


def test_the_page_is_up_to_date() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run python -m tests.catalogue.table"


# -- calls and names ---------------------------------------------------------------------------------------------------

NAMESPACE = {**vars(tf), "over_debias": over_debias}
LIBRARIES = {
    "torch": torch,
    "optax": optax,
    "pytorch_optimizer": pytorch_optimizer,
    "trainfn_torch": trainfn_torch,
    "trainfn_jax": trainfn_jax,
}
LEAVES = tuple(tf.Leaf("w", shape) for shape in ((7,), (6, 5), (5, 4, 3, 3)))


def as_leaves_see(rule: tf.Rule) -> list[Any]:
    """The definitions, options and hyperparameters of each leaf; of schedules the curve."""
    seen = []
    for leaf in LEAVES:
        own = rule.of_leaf(leaf)
        values = {
            k: [x(n) for n in range(80)] if isinstance(x, tf.Schedule) else x for k, x in resolve(own, leaf).items()
        }
        seen.append(([(x.definition, x.options) for x in own.all_links], values))
    return seen


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_call_on_the_page_is_the_rows_rule(row: Row) -> None:
    text = call(row.as_used())
    assert f"| `{row.name}` | `{text}` |" in table.PAGE.read_text(encoding="utf-8")
    assert as_leaves_see(eval(text, dict(NAMESPACE))) == as_leaves_see(row.as_used())


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
def test_a_call_on_the_page_is_the_rows_schedule(row: Any) -> None:
    text = call_of_schedule(row.schedule)
    assert f"| `{row.name}` | `{text}` |" in table.PAGE.read_text(encoding="utf-8")
    made = eval(text, dict(NAMESPACE))
    assert [made(n) for n in range(80)] == [row.schedule(n) for n in range(80)]


def _entries() -> Iterator[Entry]:
    for entries in (names.of_torch, names.of_optax, names.of_peers, names.of_transformers):
        yield from entries()


def test_every_name_elsewhere_leads_to_things_that_exist() -> None:
    entries = list(_entries())
    found = {re.sub(r"\(.*", "", entry.name) for entry in entries}
    assert {"torch.optim.AdamW", "optax.contrib.muon", "pytorch_optimizer.SOAP", "optax.scale_by_adam"} <= found
    assert {"torch.optim.lr_scheduler.OneCycleLR", "optax.warmup_cosine_decay_schedule"} <= found
    for entry in entries:
        for name in (re.sub(r"\(.*", "", entry.name), entry.drop_in):
            library, _, path = name.partition(".")
            assert library in ("", "transformers") or attrgetter(path)(LIBRARIES[library]), name
        assert entry.calls, entry.name
        for text in entry.calls:
            assert eval(text, dict(NAMESPACE)) is not None, text


def test_names_that_are_not_here_are_in_the_other_library() -> None:
    for entry in names.absent():
        library, _, path = entry.name.partition(".")
        attrgetter(path)(LIBRARIES[library])
        assert not entry.calls
    with pytest.raises(AttributeError, match=r"no attribute 'LBFGS': use torch.optim.LBFGS: a line search"):
        _ = trainfn_torch.optim.LBFGS  # type: ignore[attr-defined]


def test_calls_for_names_are_what_the_drop_ins_make() -> None:
    for entry in _entries():
        if entry.name in names.WORDS or "(" in entry.name or not entry.drop_in:
            continue  # which are words, rows, and names alike
        is_torch = entry.drop_in.startswith("trainfn_torch.optim.")
        made = names.rule_of_class(entry.drop_in) if is_torch else names.made_by(entry.drop_in)
        written = eval(entry.calls[0], dict(NAMESPACE))
        if isinstance(made, tf.Schedule):
            assert [made(n) for n in range(200)] == [written(n) for n in range(200)], entry.name
        else:
            assert as_leaves_see(written) == as_leaves_see(made), entry.name


def test_only_optimizers_are_public_in_torchs_place() -> None:
    public = {n for n in dir(trainfn_torch.optim) if isinstance(getattr(trainfn_torch.optim, n), type) and n[0] != "_"}
    of_ours = {n for n in public if getattr(trainfn_torch.optim, n).__module__ == "trainfn_torch.optim"}
    assert of_ours == {*trainfn_torch.optim.__all__}


def test_no_drop_in_is_left_out() -> None:
    shown = {entry.drop_in for entry in _entries()}
    for ours, theirs in (
        (trainfn_torch.optim, torch.optim),
        (trainfn_torch.lr_scheduler, torch.optim.lr_scheduler),
        (trainfn_jax.contrib, optax.contrib),
        (trainfn_jax, optax),
    ):
        both = {n for n in ours.__all__ if hasattr(theirs, n)} - {"LRScheduler", "contrib", *names._NOT_RULES}
        assert {f"{ours.__name__}.{n}" for n in both} <= shown


def test_a_time_above_its_target_is_marked() -> None:
    assert table._time([1.18, 1.1, 1.29], 1.15) == "**1.18x** [1.10, 1.29] (1.15x)"
    assert table._time([1.154, 1.1, 1.29], 1.15) == "1.15x [1.10, 1.29] (1.15x)"
    assert table._time([1.18, 1.1, 1.29], None) == "1.18x [1.10, 1.29]"


def test_the_page_has_a_rule_as_large_leaves_have_it() -> None:
    small, large = (BY_NAME["shampoo_averaged"].rule(), BY_NAME["shampoo_averaged"].as_used())
    due = 4 * 2 * (512**2 + 768**2) / (512 * 768)
    assert table.state_bytes(small) < 5 < table.state_bytes(large) == pytest.approx(due)


# -- words, classes, papers --------------------------------------------------------------------------------------------


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
