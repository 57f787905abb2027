"""Pictures and tables of schedules, and of which leaf gets what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import trainfn as tf
from trainfn import preview


def test_a_picture_of_several_schedules(tmp_path: Path) -> None:
    schedules = {"short": tf.warmup_cosine(1e-3, 10, 100), "long": tf.warmup_cosine(1e-3, 10, 300)}
    written = preview.plot(schedules, 300, tmp_path / "lr.png")
    assert written.read_bytes().startswith(b"\x89PNG")
    assert [f.name for f in tmp_path.iterdir()] == ["lr.png"]
    one = preview.plot(schedules["short"], 300, tmp_path / "one.png")
    assert one.read_bytes() != written.read_bytes()


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = preview.plot(tf.constant(1.0), 3, tmp_path / "lr.png")
    before = path.read_bytes()

    def run_out_of_space(self: Any, file: Path, **options: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", run_out_of_space)
    with pytest.raises(OSError, match="no space"):
        preview.plot(tf.constant(2.0), 3, path)
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["lr.png"]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    preview.table([tf.linear(0.0, 1.0, 10), tf.constant(0.5)], steps=11, rows=6)
    text = capsys.readouterr().out
    assert re.search(r"│ 4 +│ 0\.4 +│ 0\.5 +│", text)
    assert re.search(r"│ 10 +│ 1 +│ 0\.5 +│", text)
    assert "▄" in text


def test_a_table_of_who_gets_what(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import trainfn_jax

    monkeypatch.setenv("COLUMNS", "200")
    decay = tf.by_leaf({"*bias": 0.0}, otherwise=0.1)
    rule = tf.partition({"embed*": tf.sgd(lr=0.5)}, otherwise=tf.adamw(lr=tf.constant(0.2), weight_decay=decay))
    module = torch.nn.ModuleDict({"embed": torch.nn.Embedding(7, 3), "head": torch.nn.Linear(3, 2)})
    preview.leaves(rule, dict(module.named_parameters()))
    text = capsys.readouterr().out
    assert re.search(r"│ embed.weight +│ 7 x 3 +│ sgd +│ lr=0.5 +│", text)
    assert re.search(r"│ head.bias +│ 2 +│ adamw +│ lr=constant\(.*\), b1=0.9, .*, weight_decay=0 +│", text)
    assert re.search(r"│ head.weight +│ 2 x 3 +│ adamw +│ .*, weight_decay=0.1 +│", text)
    assert "3 leaves, 29 parameters" in text
    preview.leaves(rule, trainfn_jax.named_leaves({"embed": {"w": torch.ones(7, 3).numpy()}, "bias": torch.ones(2)}))
    assert re.search(r"│ embed/w +│ 7 x 3 +│ sgd +│", capsys.readouterr().out)
    with pytest.raises(ValueError, match="is no leaf of this model"):
        preview.leaves(rule, {"head.bias": (2,)})


class Pair(NamedTuple):
    kernel: Any
    bias: Any


def test_leaves_of_what_each_library_has(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import jax.numpy as jnp
    import torch

    import trainfn_jax

    def shown(params: Any) -> str:
        preview.leaves(tf.adamw(weight_decay=tf.by_leaf({"*bias": 0.0}, otherwise=0.1)), params)
        return capsys.readouterr().out

    monkeypatch.setenv("COLUMNS", "200")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    assert shown(module.named_parameters()) == shown(dict(module.named_parameters()))
    assert shown(list(module.named_parameters())) == shown({k: p.shape for k, p in module.named_parameters()})
    tree = {"layers": [{"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, {"bias": None}], "scale": jnp.ones(())}
    text = shown(tree)
    assert sorted(text.splitlines()) == sorted(shown(trainfn_jax.named_leaves(tree)).splitlines())
    assert re.search(r"│ layers/0/bias +│ 3 +│ adamw +│ .*, weight_decay=0 +│", text)
    assert shown({"a": {"bias": (2,)}, "b": ()}) == shown({"a/bias": (2,), "b": ()})
    assert shown({"a": Pair(jnp.ones(2), jnp.ones(3))}) == shown({"a/kernel": (2,), "a/bias": (3,)})
    assert shown([jnp.ones(2), {"bias": (3,)}]) == shown({"0": (2,), "1/bias": (3,)})
    for params, what in (
        (module, r"these are Sequential\("),
        (module.parameters(), "these are <generator"),
        ({"a": {"bias": 3.0}}, "'a/bias' is 3.0"),
        ({"a": "text"}, "'a' is 'text'"),
    ):
        with pytest.raises(TypeError, match=rf"{what}(.|\n)*, and leaves are wanted by name, .*named_parameters\(\)"):
            shown(params)


def test_the_suffix_says_what_sort_of_picture_it_is(tmp_path: Path) -> None:
    for name, start in (("a.svg", b"<?xml"), ("b.pdf", b"%PDF"), ("c.PNG", b"\x89PNG")):
        assert preview.plot(tf.constant(1.0), 3, tmp_path / name).read_bytes().startswith(start)
    for name in ("a.jpeg", "a"):
        with pytest.raises(ValueError, match=rf"{name}: a picture ends in \.png, \.svg, \.pdf"):
            preview.plot(tf.constant(1.0), 3, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing to write"):
        preview.plot(tf.constant(1.0), 3, tmp_path / "missing" / "a.png")
    assert {f.name for f in tmp_path.iterdir()} == {"a.svg", "b.pdf", "c.PNG"}


@pytest.mark.parametrize(
    ("schedules", "steps", "message"),
    [
        (tf.warmup, 3, r"Call it first, as in warmup\(peak, steps, start=0.0\)"),
        ([0.1], 3, "schedules are drawn, not 0.1"),
        (tf.adamw(), 3, r"not the rule adamw: give those it has, as in rule\.hyper\['lr'\]"),
        (tf.adamw, 3, "not the rule adamw"),
        ([], 3, "no schedules"),
        (tf.constant(1.0), 0, "steps = 0 must be at least 1"),
    ],
)
def test_bad_input(schedules: Any, steps: int, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        preview.table(schedules, steps)
