"""The report: one HTML file, everything inside it, that tells a stranger what was compared and what came out."""

import inspect
import math
from collections.abc import Iterable
from dataclasses import fields
from html import escape
from itertools import takewhile
from pathlib import Path

import numpy as np

from . import recipe as recipe_module
from .results import Results
from .run import Run
from .timing import Comparison

try:
    from . import plots
except ImportError:  # no matplotlib: `pip install trainfn[train]`
    plots = None  # type: ignore[assignment]

STYLE = Path(__file__).with_name("report.css")

KINDS = {
    "updates": "update",
    "parameters": "parameters after it",
    "m": "first moment (<code>exp_avg</code>, <code>mu</code>)",
    "v": "second moment (<code>exp_avg_sq</code>, <code>nu</code>)",
    "steps": "update count of each tensor",
}


def render(results: Results) -> str:
    sections = (
        _header,
        _recipe,
        _learning_rate,
        _replay,
        _losses,
        _timings,
        _samples,
        _settings,
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>trainfn: one recipe, two frameworks</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{"".join(section(results) for section in sections)}
</body>
</html>
"""


def _header(r: Results) -> str:
    c = r.config
    verdict = "Every bit that should be equal is equal." if r.passed else "Something is NOT equal."
    checks = "".join(
        f"<li>{'' if check.passed else '<b>NOT EQUAL</b>: '}{escape(check.name)}: {escape(check.detail)}</li>"
        for check in r.checks
    )
    return f"""
<h1>One training recipe, two frameworks, the same bits</h1>
<p class="lead">A character-level transformer of {r.parameter_count:,} parameters ({c.layers} blocks of width
{c.width}) was trained twice on Python's own documentation: once in PyTorch and once in flax, from the same
initial weights and on the same {c.updates} batches. The optimizer was written once, with trainfn, and ran in
both.</p>
<div class="verdict {"pass" if r.passed else "fail"}"><strong>{verdict}</strong><ul>{checks}</ul></div>
"""


def _recipe(r: Results) -> str:
    functions = (recipe_module.learning_rate, recipe_module.recipe)
    source = "\n\n".join(inspect.getsource(function) for function in functions)
    return f"""
<h2>The recipe</h2>
<p>Gradients clipped by their global norm, AdamW, a learning rate that warms up and then falls along a cosine.
No framework is named in it; PyTorch gets it as <code>trainfn_torch.Optimizer(model.named_parameters(),
recipe(config))</code>, JAX as <code>trainfn_jax.transform(recipe(config))</code>.</p>
<pre>{escape(source)}</pre>
"""


def _learning_rate(r: Results) -> str:
    rates = r.learning_rates
    n = len(rates.reference)
    caption = (
        "What each optimizer used while it trained: PyTorch's read from its param_groups, in float64; "
        "flax's computed inside the jitted update, in float32."
    )
    return f"""
<h2>1. The learning rate is the same number at every update</h2>
{_figure("learning_rate", r, caption)}
<p>Of {n} values, {rates.torch_differing} in PyTorch and {rates.flax_differing} in flax differ from the schedule
as numpy evaluates it.</p>
"""


def _replay(r: Results) -> str:
    ours, meaning, theirs = r.replay.torch_flax, r.replay.flax_numpy, r.replay.baseline
    caption = (
        "How many values differ in any bit after each update. Green: trainfn. Grey, for contrast: the same "
        "recipe as one writes it today, once with torch.optim and once with optax; the formulas are the same, "
        "and each library rounds in its own way."
    )
    rows = "".join(
        f'<tr><td>{label}</td><td class="n">{meaning.words[kind]:,}</td>'
        + _count(ours.differing.get(kind), bad_if_any=True)
        + _count(meaning.differing.get(kind), bad_if_any=True)
        + _count(theirs.differing.get(kind), bad_if_any=False)
        + "</tr>"
        for kind, label in KINDS.items()
    )
    return f"""
<h2>2. The same gradients give the same updates and the same state</h2>
<p>The gradients of {ours.updates} updates, evenly spread over the PyTorch run, were recorded and replayed through the
recipe, its schedule shortened to as many steps, in PyTorch, in JAX under <code>jit</code>, and in numpy, which
defines what a recipe means. PyTorch keeps a linear layer's weight as out &times; in, flax as in &times; out; each got
the gradients in its own layout. After every update everything the optimizers hold was compared as integers:
{ours.total_differing:,} of {ours.total_words:,} words differ between PyTorch and JAX.</p>
{_figure("replay", r, caption)}
<table>
<tr><th>values that differ, summed<br>over {ours.updates} updates</th><th class="n">values<br>per update</th>
<th class="n">trainfn:<br>PyTorch, JAX</th><th class="n">trainfn:<br>JAX, numpy</th>
<th class="n">torch.optim,<br>optax</th></tr>
{rows}
</table>
<p>torch.optim and optax disagree by little: no parameter is ever more than {theirs.furthest["parameters"]:.1e} apart.
But whoever ports a recipe must guess whether such a difference is rounding or a mistake; a zero leaves nothing to
guess. A PyTorch optimizer writes into its parameters and shows no update, so in PyTorch the update is seen through the
parameters only.</p>
"""


def _count(differing: Iterable[int] | None, bad_if_any: bool) -> str:
    if differing is None:
        return '<td class="n">not shown</td>'
    total = sum(differing)
    return f'<td class="n{" bad" if bad_if_any and total else ""}">{total:,}</td>'


def _losses(r: Results) -> str:
    d = r.loss_differences
    caption = "Left: the loss on each batch. Right: how far the two runs' losses are apart at each update."
    return f"""
<h2>3. The losses are close, and not the same</h2>
{_figure("losses", r, caption)}
<p>trainfn makes the optimizers the same. The models are still PyTorch's and XLA's own matrix products, which add
in different orders: at the first update, with the same weights, the losses differ by {d[0]:.1e}. Training
amplifies such a difference, here up to {d.max():.1e} at update {int(d.argmax()) + 1}. The two runs learn equally
well:</p>
<table>
<tr><th></th><th class="n">first loss</th><th class="n">last 20, mean</th><th class="n">on held-out text</th>
<th class="n">time of an update</th></tr>
{"".join(_loss_row(run) for run in (r.torch, r.flax))}
</table>
<p>Losses are in nats per character; a uniform guess among the text's {r.vocabulary_size} characters would have
{math.log(r.vocabulary_size):.2f}. The time is a whole update's: forward pass, backward pass and optimizer.</p>
"""


def _loss_row(run: Run) -> str:
    return (
        f'<tr><td>{run.framework}</td><td class="n">{run.loss[0]:.4f}</td>'
        f'<td class="n">{np.mean(run.loss[-20:]):.4f}</td><td class="n">{run.held_out_loss:.4f}</td>'
        f'<td class="n">{1e3 * run.seconds_per_update:.0f} ms</td></tr>'
    )


def _timings(r: Results) -> str:
    caption = (
        "A grey stroke is one pair of measurements, the point the pairs' median, the bar its 95 % interval. "
        "Left of the line trainfn is faster."
    )
    return f"""
<h2>4. What an optimizer step costs</h2>
<p>One step (clipping, AdamW, schedule; no model) on this model's parameters, measured {r.config.timed_pairs}
times beside the library's own, in turns.</p>
{_figure("timings", r, caption)}
<table>
<tr><th></th><th class="n">median</th><th>against</th><th class="n">median</th><th class="n">ratio</th>
<th>95 % interval</th></tr>
{"".join(_timing_row(t) for t in r.timings)}
</table>
<p>This model is tiny, so much of a step is its fixed cost. <code>make bench</code> measures large ones.</p>
"""


def _timing_row(t: Comparison) -> str:
    low, high = t.interval
    return (
        f'<tr><td>{escape(t.what)}</td><td class="n">{1e6 * np.median(t.ours):.0f} µs</td>'
        f'<td>{escape(t.against)}</td><td class="n">{1e6 * np.median(t.theirs):.0f} µs</td>'
        f'<td class="n"><b>{t.ratio:.2f}</b></td><td>{low:.2f} to {high:.2f}</td></tr>'
    )


def _samples(r: Results) -> str:
    pairs = zip(r.torch_sample, r.flax_sample, strict=True)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    agreed = shared - len(r.prompt)
    until = (
        "They write the same."
        if shared == len(r.torch_sample)
        else f"They agree on {agreed} characters after it; then the choice falls differently once, and from there on "
        "they read different texts."
    )
    return f"""
<h2>5. What the models write</h2>
<p>Both continue &ldquo;{escape(r.prompt)}&rdquo; with the same random numbers, at temperature
{r.config.temperature}. {until}</p>
<div class="samples">
{_sample("PyTorch", r.torch_sample, shared)}
{_sample("flax", r.flax_sample, shared)}
</div>
"""


def _sample(name: str, text: str, shared: int) -> str:
    marked = f'<span class="same">{escape(text[:shared])}</span>{escape(text[shared:])}'
    return f"<div><b>{name}</b><pre>{marked}</pre></div>"


def _settings(r: Results) -> str:
    settings = "".join(
        f"<tr><td>{field.name}</td><td>{escape(str(getattr(r.config, field.name)))}</td></tr>"
        for field in fields(r.config)
    )
    versions = ", ".join(f"{name} {value}" for name, value in r.environment.items())
    return f"""
<h2>Settings</h2>
<details><summary>Every number of the experiment</summary><table>{settings}</table></details>
<footer>{escape(versions)}. The demo took {r.seconds:.0f} s, imports not counted. Run it
again with <code>make demo</code>.</footer>
"""


def _figure(name: str, r: Results, caption: str) -> str:
    if plots is None:
        return "<p><i>The figure is missing because matplotlib is: pip install 'trainfn[train]'.</i></p>"
    return f"<figure>{plots.svg(name, r)}<figcaption>{escape(caption)}</figcaption></figure>"
