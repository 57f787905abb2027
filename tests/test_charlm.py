"""The demo's parts that stand on their own: batches, the map between the two models, the models' agreement, and the
comparison that everything else is judged by."""

from dataclasses import replace

import numpy as np
import pytest

from examples.charlm.config import Config
from examples.charlm.data import Corpus, batch, load_corpus
from examples.charlm.weights import Named, Row, table, to_flax, to_torch

# One block, because XLA takes seconds to compile the gradient of two.
SMALL = replace(Config(), context=16, width=24, heads=3, layers=1, batch=3)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def weights(corpus: Corpus) -> Named:
    return random_weights(SMALL, corpus)


def random_weights(config: Config, corpus: Corpus) -> Named:
    """Of every parameter, large enough that a mistake in the forward pass shows (new biases are zero)."""
    model_torch = pytest.importorskip("examples.charlm.model_torch")
    random = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        is_gain = "norm" in name and name.endswith("weight")
        return random.normal(1.0 if is_gain else 0.0, 0.2, shape).astype(np.float32)

    model = model_torch.GPT(config, len(corpus.vocabulary))
    return {name: draw(name, tuple(p.shape)) for name, p in model.named_parameters()}


def test_text_survives_the_vocabulary(corpus: Corpus) -> None:
    text = 'The "assert" statement\n'
    assert corpus.decode(corpus.encode(text)) == text


def test_held_out_text_is_real_and_apart(corpus: Corpus) -> None:
    assert 0.04 < len(corpus.held_out) / (len(corpus.train) + len(corpus.held_out)) < 0.06
    seen, unseen = corpus.decode(corpus.train), corpus.decode(corpus.held_out)
    stretches = [unseen[i : i + 100] for i in range(0, len(unseen) - 100, 100)]
    assert not [s for s in stretches if s in seen], "the topics repeat one another; what is unseen must be unseen"


def test_a_batch_is_a_function_of_seed_and_step(corpus: Corpus) -> None:
    inputs, targets = batch(corpus.train, SMALL, 7)
    again, _ = batch(corpus.train, SMALL, 7)
    assert inputs.shape == targets.shape == (SMALL.batch, SMALL.context)
    assert np.array_equal(inputs, again)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1]), "a target is the character after its input"
    assert not np.array_equal(inputs, batch(corpus.train, SMALL, 8)[0])
    assert not np.array_equal(inputs, batch(corpus.train, replace(SMALL, seed=1), 7)[0])


def test_weights_survive_the_way_to_flax_and_back(weights: Named) -> None:
    rows = table(SMALL.layers)
    back = to_torch(to_flax(weights, rows), rows)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        assert np.array_equal(back[name], array), name


def test_linear_layers_are_transposed_and_contiguous(weights: Named) -> None:
    tree = to_flax(weights, table(SMALL.layers))
    kernel = tree["blocks_0"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (SMALL.width, 4 * SMALL.width)
    assert kernel.flags.c_contiguous
    assert np.array_equal(kernel.T, weights["blocks.0.mlp.up.weight"])


def test_names_that_do_not_match_the_table_are_named(weights: Named) -> None:
    incomplete = {name: array for name, array in weights.items() if name != "norm.bias"}
    with pytest.raises(ValueError, match=r"missing \['norm.bias'\]"):
        to_flax(incomplete, table(SMALL.layers))
    with pytest.raises(ValueError, match="unknown"):
        to_torch({"extra": np.zeros(1)}, [Row("norm.bias", ("norm", "bias"), False)])


def test_the_table_is_the_flax_models_own_tree(corpus: Corpus) -> None:
    jax = pytest.importorskip("jax")
    model_flax = pytest.importorskip("examples.charlm.model_flax")
    config = replace(SMALL, layers=2)
    model = model_flax.GPT(config, len(corpus.vocabulary))
    tokens = jax.ShapeDtypeStruct((1, config.context), np.int32)
    own = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    mapped = to_flax(random_weights(config, corpus), table(config.layers))
    assert jax.tree.map(lambda x: x.shape, own) == jax.tree.map(lambda x: x.shape, mapped)


def test_both_models_compute_the_same_logits_and_gradients(corpus: Corpus, weights: Named) -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    model_torch = pytest.importorskip("examples.charlm.model_torch")
    model_flax = pytest.importorskip("examples.charlm.model_flax")
    rows = table(SMALL.layers)
    inputs, targets = batch(corpus.train, SMALL, 0)

    one = model_torch.GPT(SMALL, len(corpus.vocabulary))
    one.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    loss = model_torch.loss(one, torch.tensor(inputs), torch.tensor(targets).long())
    loss.backward()

    other = model_flax.GPT(SMALL, len(corpus.vocabulary))
    params = to_flax(weights, rows)

    @jax.jit  # op by op, XLA would compile each of them: four times as long
    def evaluate(params):
        loss, gradient = jax.value_and_grad(lambda p: model_flax.loss(other, p, inputs, targets))(params)
        return other.apply({"params": params}, inputs), loss, gradient

    its_logits, its_loss, gradient = evaluate(params)
    logits = one(torch.tensor(inputs)).detach().numpy()
    np.testing.assert_allclose(its_logits, logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(its_loss, loss.item(), rtol=1e-6)
    its_gradients = to_torch(gradient, rows)
    for name, p in one.named_parameters():
        np.testing.assert_allclose(its_gradients[name], p.grad.numpy(), rtol=0, atol=1e-5, err_msg=name)


def test_no_character_sees_a_later_one(corpus: Corpus, weights: Named) -> None:
    torch = pytest.importorskip("torch")
    model_torch = pytest.importorskip("examples.charlm.model_torch")
    model = model_torch.GPT(SMALL, len(corpus.vocabulary))
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    tokens = torch.tensor(batch(corpus.train, SMALL, 0)[0])
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % len(corpus.vocabulary)
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert not torch.equal(after[:, -1], before[:, -1])


def test_words_are_compared_by_their_bits() -> None:
    bits = pytest.importorskip("examples.charlm.bits")
    one = np.array([1.0, 0.0, np.nan, 5e-45], np.float32)
    assert bits.differing_words(one, one.copy()) == 0
    assert bits.differing_words(one, np.array([1.0, -0.0, np.nan, 0.0], np.float32)) == 2
    assert bits.differing_words(one, np.nextafter(one, np.float32(9))) == 3
    assert bits.differing_words(one.reshape(2, 2).T, one.reshape(2, 2)) == 2
    with pytest.raises(ValueError, match="cannot compare"):
        bits.differing_words(one, one.astype(np.float64))
    with pytest.raises(ValueError, match="cannot compare"):
        bits.differing_words(one, one[:3])


def test_one_bit_anywhere_is_found() -> None:
    bits = pytest.importorskip("examples.charlm.bits")
    random = np.random.default_rng(0)

    def snapshot(kind: str = "", bit: int = 0) -> object:
        arrays = {
            k: {"w": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)} for k in bits.Snapshot._fields
        }
        if kind:
            arrays[kind]["w"].view(np.uint32)[random.integers(3), random.integers(4)] ^= np.uint32(1 << bit)
        return bits.Snapshot(**arrays)

    same = [snapshot(), snapshot()]
    for kind in bits.Snapshot._fields:
        for bit in (0, 22, 30, 31):
            (agreement,) = bits.compare(same, [snapshot(), snapshot(kind, bit)])
            assert agreement.total_words == 2 * 12 * len(bits.Snapshot._fields)
            assert agreement.total_differing == agreement.differing[kind][1] == 1
    with pytest.raises(ValueError, match="zip"):
        bits.compare(same, same[:1])
