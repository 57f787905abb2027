"""Random numbers: Threefry's words against JAX's, what a rule's numbers depend on, and how they are distributed.

That every execution draws the same ones is shown by the rows of `tests/catalogue/noise.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.inputs import numbers
from trainfn import random, reference
from trainfn.lowering import lower
from trainfn.program import ARITHMETIC, FLOPS, Program
from trainfn.trace import Leaf, TraceError
from trainfn.verbs import axis_sum, leaf_sum, normal_like, uniform_like

WORD = st.integers(0, 2**32 - 1)


# -- words -------------------------------------------------------------------------------------------------------------


def test_threefry_gives_the_authors_known_answers() -> None:
    """The vectors of Random123's kat_vectors for threefry2x32 with 20 rounds."""
    ones = 0xFFFFFFFF
    assert random.threefry2x32((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    assert random.threefry2x32((ones, ones), (ones, ones)) == (0x1CB996FC, 0xBB002BE7)
    assert random.threefry2x32((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)) == (0xC4923A9C, 0x483DF7A0)


@given(key=st.tuples(WORD, WORD), counter=st.tuples(WORD, WORD))
def test_threefry_is_jaxs(key: tuple[int, int], counter: tuple[int, int]) -> None:
    from jax.extend.random import threefry_2x32

    theirs = threefry_2x32(np.array(key, np.uint32), np.array(counter, np.uint32))
    assert random.threefry2x32(key, counter) == tuple(map(int, theirs))


@pytest.mark.parametrize("kind", [np.uint32, np.int64, np.uint64])
def test_words_may_be_arrays(kind: Any) -> None:
    key = np.array([1, 2**32 - 1, 77], kind), np.array([5, 0, 2**31], kind)
    counter = np.array([0, 2**32 - 1, 2**31], kind), np.array([9, 8, 2**32 - 1], kind)
    together = random.threefry2x32(key, counter)
    for i in range(3):
        alone = random.threefry2x32((int(key[0][i]), int(key[1][i])), (int(counter[0][i]), int(counter[1][i])))
        assert (int(together[0][i]), int(together[1][i])) == alone


@given(seed=st.integers(0, 2**63 - 1), data=WORD)
def test_keys_are_jaxs(seed: int, data: int) -> None:
    import jax

    with jax.enable_x64(True):
        theirs = jax.random.PRNGKey(seed)
        assert random.key(seed) == tuple(map(int, theirs))
        assert random.fold_in(random.key(seed), data) == tuple(map(int, jax.random.fold_in(theirs, data)))


def test_the_words_of_an_unnamed_stream_are_those_jax_makes_its_bits_of() -> None:
    import jax

    high, low = random.threefry2x32(random.fold_in(random.key(5), 3), random.place(np.arange(100), 0))
    theirs = jax.random.bits(jax.random.fold_in(jax.random.PRNGKey(5), 3), (100,), np.uint32)
    np.testing.assert_array_equal(high ^ low, np.asarray(theirs))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(ValueError, match="must be a whole number in"):
        random.key(seed)


def test_streams_are_hashes_of_names() -> None:
    assert random.stream("") == 0xE3B0C442  # SHA-256 of nothing
    assert random.stream("layers.0.weight") != random.stream("layers.1.weight")
    assert random.stream("größe") == random.stream("gr\N{LATIN SMALL LETTER O WITH DIAERESIS}ße")


def test_places_go_on_beyond_32_bits() -> None:
    """A leaf of more than 2**32 elements goes on where another stream would begin; words wrap around."""
    assert random.place(2**32 + 5, 7) == (8, 5)
    assert random.place(2**32 + 5, 2**32 - 1) == (0, 5)


# -- a rule's numbers --------------------------------------------------------------------------------------------------


@tf.rule
def uniforms(step: Any, g: Any, *, seed: Any = 0) -> Any:
    return uniform_like(g, seed, step)


@tf.rule
def normals(step: Any, g: Any, *, seed: Any = 0) -> Any:
    return normal_like(g, seed, step)


@tf.rule
def told_apart(step: Any, g: Any, *, seed: Any = 0) -> Any:
    return uniform_like(g, seed, step, 1)


def drawn(
    rule: tf.Rule, name: str = "w", shape: tuple[int, ...] = (6, 5), steps: int = 1, dtype: Any = np.float32
) -> Any:
    """What a rule whose update is its random numbers draws at step `steps - 1`."""
    zeros = {name: np.zeros(shape, dtype)}
    state = reference.init(rule, zeros)
    for _ in range(steps):
        updates, state = reference.update(rule, state, zeros, zeros)
    return updates[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_numbers_are_the_words_upper_bits(dtype: Any) -> None:
    high, _ = random.draws(11, [2], "layers/0/kernel", (6, 5))
    ours = drawn(uniforms(seed=11), "layers/0/kernel", steps=3, dtype=dtype)
    np.testing.assert_array_equal(ours, (high >> 8).astype(dtype) / 2**24)


def test_everything_a_number_depends_on_changes_it() -> None:
    first = drawn(uniforms(seed=1))
    others = [drawn(uniforms(seed=2)), drawn(uniforms(seed=1), "v"), drawn(uniforms(seed=1), steps=2)]
    others += [drawn(told_apart(seed=1))]
    assert all(np.all(x != first) for x in others)
    np.testing.assert_array_equal(drawn(uniforms(seed=1), shape=(5, 6)).reshape(-1), first.reshape(-1))  # C order


def test_seeds_are_words() -> None:
    for seed in (-1, 0.5, 2**32):
        with pytest.raises(ValueError, match=r"seed = .* must be a whole number in \[0, 4294967296\)"):
            uniforms(seed=seed)


def test_numbers_that_are_no_words_are_refused() -> None:
    def trace(*words: Any) -> None:
        tf.rule(lambda g: uniform_like(g, *words))().program()

    for word in (-1, 0.5, 2**32):
        with pytest.raises(TraceError, match="no whole number in"):
            trace(word)
    with pytest.raises(TraceError, match="takes Scalars and whole numbers"):
        tf.rule(lambda g: uniform_like(g, g))().program()
    with pytest.raises(TraceError, match="takes an Array"):
        tf.rule(lambda g: g * uniform_like(leaf_sum(g), 1))().program()
    with pytest.raises(TraceError, match="makes arrays of the leaf's shape"):
        tf.rule(lambda g: g * uniform_like(axis_sum(g, 0), 1))().program(Leaf("w", (3, 4)))


def test_a_scalar_that_is_no_word_counts_as_zero() -> None:
    """Its whole part counts, 0 outside of the range; the tests of kernels and of JAX run the same numbers."""
    assert [reference.word(x) for x in (5.9, -0.5, -1.0, 2.0**32, math.inf, math.nan)] == [5, 0, 0, 0, 0, 0]


class Chance(NamedTuple):
    x: tf.Array

    @staticmethod
    def init(p: Any) -> Any:
        return Chance(normal_like(p, 1))


def test_a_state_begins_without_chance() -> None:
    @tf.rule
    def kept(state: Chance, g: Any) -> Any:
        return g, state

    with pytest.raises(TraceError, match="a state begins, and is evaluated, without chance"):
        kept().init_program()


def test_formulas_and_flops() -> None:
    """A program's cost counts what its random numbers are made of."""
    assert "update = normal_like(seed, step)" in str(normals().program())
    for rule in (uniforms(), normals()):
        lowered = lower(rule.program().keep(["update"]))
        assert _array_flops(lowered) == rule.program().keep(["update"]).flops
    assert _array_flops(lower(normals().program().keep(["update"]))) == FLOPS["normal_like"]


def _array_flops(program: Program) -> int:
    return sum(node.op in ARITHMETIC and node.sort.is_elementwise for node in program.nodes)


# -- distributions -----------------------------------------------------------------------------------------------------

N = 400_000


def _moments_fit(x: Any, expected: tuple[float, ...]) -> bool:
    """Whether the means of x, x^2, ... are within 4.5 standard errors of the expected ones."""
    powers = [x.astype(np.float64) ** k for k in range(1, len(expected) + 1)]
    return all(abs(y.mean() - e) < 4.5 * y.std() / math.sqrt(x.size) for y, e in zip(powers, expected, strict=True))


def _kolmogorov(x: Any, cumulative: Any) -> float:
    """sqrt(n) times the largest distance to a distribution: above 1.95 once in a thousand."""
    expected = cumulative(np.sort(x).astype(np.float64))
    ranks = np.arange(x.size + 1) / x.size
    return math.sqrt(x.size) * float(max(np.max(ranks[1:] - expected), np.max(expected - ranks[:-1])))


def _phi(x: Any) -> Any:
    return np.array([math.erfc(-y / math.sqrt(2.0)) / 2 for y in x])


def test_uniform_numbers_are_uniform() -> None:
    x = drawn(uniforms(seed=3), shape=(N,))
    assert x.min() >= 0
    assert x.max() < 1
    assert _moments_fit(x, (1 / 2, 1 / 3, 1 / 4, 1 / 5))
    assert _kolmogorov(x, lambda y: y) < 1.95


def test_normal_numbers_are_normal() -> None:
    x = drawn(normals(seed=3), shape=(N,))
    assert _moments_fit(x, (0, 1, 0, 3, 0, 15))
    assert _kolmogorov(x, _phi) < 1.95
    for size in (3.0, 4.0):
        expected = N * math.erfc(size / math.sqrt(2.0))
        assert abs(np.sum(np.abs(x) > size) - expected) < 4.5 * math.sqrt(expected)


def test_neighbours_updates_and_leaves_are_uncorrelated() -> None:
    x, later, other = (drawn(normals(seed=3), name, (N,), n) for name, n in (("w", 1), ("w", 2), ("v", 1)))
    for y in (np.roll(x, 1), np.roll(x, 2), later, other):
        assert abs(float(np.mean(x.astype(np.float64) * y))) < 4.5 / math.sqrt(N)


def _exactly_normal(u: Any, v: Any) -> Any:
    """Box and Muller's formula in float64."""
    w = 0.25 - np.abs(v / 2**24 - 0.5)
    return np.sqrt(-2.0 * np.log((u + 1) / 2**24)) * np.sin(2 * math.pi * w)


def _through_the_program(u: Any, v: Any, dtype: Any) -> Any:
    """`trainfn.random.normal` of whole numbers, which stand in for the drawn ones."""
    rule = tf.rule(lambda g, p: random.normal(g, p))()
    params, grads = {"w": np.asarray(v, dtype)}, {"w": np.asarray(u, dtype)}
    return reference.update(rule, reference.init(rule, params), grads, params)[0]["w"]


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 2e-6), (np.float64, 1e-7)])
def test_normal_numbers_are_accurate(dtype: Any, error: float) -> None:
    most = 2**24 - 1
    u = np.concatenate([np.arange(3000), most - np.arange(3000), 2 ** np.arange(24), np.arange(0, most, 997)])
    v = (np.arange(u.size) * 7919) % 2**24
    u, v = np.concatenate([u, np.full(5, 0)]), np.concatenate([v, [0, 2**22, 2**23, 3 * 2**22, most]])
    x = _through_the_program(u, v, dtype)
    assert np.max(np.abs(x - _exactly_normal(u, v))) < error
    assert np.max(np.abs(x)) == pytest.approx(math.sqrt(48 * math.log(2)), abs=1e-5)


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_gradient_noise_has_the_papers_size() -> None:
    """A variance of eta / (1 + step)^gamma."""
    zeros = {"w": np.zeros(20_000, np.float32)}
    rule = tf.noisy_sgd(lr=0.5, eta=0.3, gamma=0.55, seed=9)
    state = reference.init(rule, zeros)
    for step in range(4):
        updates, state = reference.update(rule, state, zeros, zeros)
        assert np.std(updates["w"]) == pytest.approx(0.5 * math.sqrt(0.3 / (1 + step) ** 0.55), rel=0.02)


def test_gradient_noise_has_optaxs_size() -> None:
    import jax.numpy as jnp
    import optax

    import trainfn_jax

    zeros = jnp.zeros(20_000)
    ours, theirs = trainfn_jax.noisy_sgd(0.5, 0.3, 0.55, 9), optax.noisy_sgd(0.5, 0.3, 0.55, 9)
    states = [ours.init(zeros), theirs.init(zeros)]
    for _ in range(3):
        sizes = []
        for i, tx in enumerate((ours, theirs)):
            updates, states[i] = tx.update(zeros, states[i], zeros)
            sizes.append(float(jnp.std(updates)))
        assert sizes[0] == pytest.approx(sizes[1], rel=0.03)


def test_the_chain_and_the_rule_are_one() -> None:
    params, grads = {"w": numbers(1, (40,))}, {"w": numbers(2, (40,))}
    rules = tf.noisy_sgd(lr=0.5, seed=4), tf.chain(tf.gradient_noise(seed=4), tf.sgd(lr=0.5))
    one, two = (reference.update(rule, reference.init(rule, params), grads, params)[0]["w"] for rule in rules)
    np.testing.assert_array_equal(one, two)
