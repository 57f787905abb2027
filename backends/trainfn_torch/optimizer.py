"""Any rule as a `torch.optim.Optimizer`.

    optimizer = trainfn_torch.Optimizer(model.named_parameters(), adamw(lr=warmup_cosine(...)))

What a training loop may do with torch's own optimizers it may do with this one: hooks, closures, schedulers, gradient
scalers, checkpoints plain and distributed, `named_parameters`, FSDP2.  This module holds the contract with torch; the
mathematics is the rule's, the arithmetic an execution's (`fused`, `foreach`, `single`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from trainfn import random
from trainfn.hyperparameters import is_leaf_function
from trainfn.program import Program, Sort
from trainfn.rule import EXTRAS, Definition, Rule, check_agreement, check_weight, numbers_of_model
from trainfn.trace import Leaf
from trainfn.wrappers.skip import maximize as ascend
from trainfn.wrappers.skip import unscale
from trainfn_torch import checkpoint, compiled, executions, pickling
from trainfn_torch import groups as grouping
from trainfn_torch import state as states
from trainfn_torch.groups import Group
from trainfn_torch.leaf import Reshaped
from trainfn_torch.names import Names
from trainfn_torch.plan import Plan, Slot
from trainfn_torch.tensors import is_overlapping, is_sharded, plain, real

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
# Attributes that copies keep beside torch's; `_given` holds parameters, which copies of the state hold too.
_KEPT = ("execution", "state_dtype", "_fixed", "_given", "_step_supports_amp_scaling")


class Optimizer(torch.optim.Optimizer):
    """Updates `params` in place by `rule`.

    params: as for torch.optim: tensors, (name, tensor) pairs or groups, which may set any hyperparameter.
    rule: a rule with its hyperparameters, such as `adamw(lr=1e-3)` or a chain.
    maximize: ascend instead of descend.
    execution: how the arithmetic is done, `"fused"`, `"foreach"` or `"single"`, the slowest; None takes the fastest
        that applies.  A parameter that the chosen one does not take goes to the next slower one, with the same bits.
    unscales: whether `step` does what a GradScaler asks, in the same pass and without waiting for the device; with
        False the scaler unscales the gradients itself, as some training loops that clip in between insist on.
    fixed: what stands in torch's groups and is decided here when the rule is made (`nesterov`, a momentum of 0), so
        that torch.optim can load this optimizer's states; changing it in a group is an error.
    state_dtype: of the state's arrays, such as torch.float32 for parameters in bfloat16; None is each parameter's own,
        as in torch, which complex and float64 ones always have.  A loaded state keeps the dtype it was saved in.
    """

    # On the class, because instances lose attributes when torch copies them.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        maximize: bool = False,
        execution: str | None = None,
        unscales: bool = True,
        fixed: Mapping[str, bool | float] | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(rule, Rule):
            hint = f" Write {rule.name}() for its defaults." if isinstance(rule, Definition) else ""
            hint = " The parameters come first, and then the rule." if isinstance(params, Rule) else hint
            raise TypeError(
                f"an Optimizer takes a rule with its hyperparameters, such as adamw(lr=1e-3), not {rule!r}.{hint}"
            )
        if isinstance(params, torch.nn.Module):
            raise TypeError("an Optimizer takes parameters, not a module: give it model.named_parameters().")
        executions.check(execution)
        if state_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"state_dtype = {state_dtype!r} must be torch.float32, bfloat16, float16, or None.")
        self.rule = rule
        self.execution = execution
        self.state_dtype = state_dtype
        self._fixed = dict(fixed or {})
        if not unscales:
            self._step_supports_amp_scaling = False
        self._groups: list[Group] = []
        self._updates = torch.zeros((), dtype=torch.float32, device="cpu")
        self._model: dict[str, torch.Tensor] = {}
        self._given: list[torch.Tensor] = []  # in the user's order, which splitting groups loses
        self._forget()
        defaults = self._defaults() | self._fixed | {"maximize": maximize}
        super().__init__(params, defaults)
        self.rule.check_policies(leaf for group in self.param_groups for leaf in _leaves(group))

    def _forget(self) -> None:
        """Drop what is only remembered to save time."""
        self._names = Names(self.rule)
        _check_words(self.rule, self._names)
        self._number = compiled.register(self)
        self._plan: Plan | None = None
        self._slots: dict[torch.Tensor, Slot] = {}
        self._variants: dict[tuple[bool, bool], Rule] = {}
        self._programs: dict[Program, Program] = {}
        # A leaf of each group with numbers that the state of the model is computed from, if there are several groups.
        self._shared: list[tuple[Leaf, dict[str, Any]]] = []

    def _defaults(self) -> dict[str, Any]:
        """The rule's numbers under torch's keys: schedulers look there for what they may write."""
        values = {n: v for n, v in self.rule.hyper.items() if not is_leaf_function(v)}
        keys = [key for key in self._names.keys if all(n in values for n in key.hyper)]
        defaults: dict[str, Any] = {}
        grouping.fill(self.rule, keys, defaults, values, self._updates)
        return defaults

    # -- parameter groups ----------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it is split where functions of the leaf give its parameters different hyperparameters."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        before, is_first = len(self.param_groups), not self._given
        given = _tensors_and_names(param_group)[0]
        try:
            for group, own in self._split(param_group):
                super().add_param_group(group)
                group["params"], names = _without_repetition(group["params"], group.get("param_names"))
                if names is not None:
                    group["param_names"] = names
                self._groups.append(own)
        except BaseException:
            del self.param_groups[before:], self._groups[before:]
            raise
        self._given += given or []
        self._start_model()
        if is_first and self._given:
            self._place(self.parameters()[0])
        self._share()

    def _split(self, given: dict[str, Any]) -> list[tuple[dict[str, Any], Group]]:
        tensors, names = _tensors_and_names(given)
        if tensors is None:
            super().add_param_group(dict(given))  # raises what torch raises
            raise TypeError(f"parameters must be tensors or (name, tensor) pairs, not {given['params']!r}.")
        leaves = [Leaf(names[i] if names else "", tuple(p.shape)) for i, p in enumerate(tensors)]
        for leaf, p in zip(leaves, tensors, strict=True):
            _check_parameter(p, leaf)
        model = {f.name for f in self.rule.fields if f.is_of_model}
        ours = {*model, *self._fixed, *grouping.ARGUMENTS, states.UPDATES}
        others = {k: v for k, v in given.items() if k not in ours}
        values = {**self.rule.hyper, **grouping.normalise(self.rule, self._names, others)}
        is_named = names is not None or not leaves
        resolved = [grouping.resolve(self.rule, values, leaf, is_named) for leaf in leaves or [Leaf()]]
        kept = {k: v for k, v in others.items() if k in grouping.KEYS_OF_OTHERS or isinstance(v, str)}
        made = []
        for indices in grouping.split(resolved):
            grouping.refuse_change(self.rule, given, self._fixed)
            group = {**kept, **self._fixed, "params": [tensors[i] for i in indices if tensors]}
            if names is not None:
                group["param_names"] = [names[i] for i in indices]
            own = grouping.fill(self.rule, self._names.keys, group, resolved[indices[0]], self._updates)
            made.append((group, own))
        if len(made) == 1:  # the user's own dictionary, as torch would use it
            group, own = made[0]
            given.clear()
            given.update(group)
            made = [(given, own)]
        return made

    def _start_model(self) -> None:
        """State of the model begins with the first parameter whose rule has it."""
        for group, own in self._both():
            for p, leaf in zip(group["params"], _leaves(group), strict=True):
                fields = [f for f in self.rule.fields if f.is_of_model and f.name not in self._model]
                if not fields:
                    return
                hyper = grouping.read(self.rule, self._names.keys, group, own)
                with torch.no_grad():
                    self._model |= states.initial_of_model(self.rule, leaf, p, hyper, fields)

    def _share(self) -> None:
        """Every group holds the same tensors for what belongs to the model: the keys of `state` are parameters only."""
        for group in self.param_groups:
            group[states.UPDATES] = self._updates
            group.update(self._model)

    def _place(self, p: torch.Tensor) -> None:
        """Keep the model's numbers where the parameters are, so that a step waits for no device."""
        device = plain(p).device
        if device != self._updates.device and self._updates.device.type == "cpu" and device.type != "meta":
            self._updates = self._updates.to(device)
            self._model = {name: x.to(device) for name, x in self._model.items()}
            self._slots = {}
            self._share()
            for group, own in zip(self.param_groups, self._groups, strict=False):
                grouping.own_values(self._names.keys, group, own, self._updates)

    # -- the step ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, value: Any = None, weight: Any = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returns.

        closure: computes the loss anew, gradients included.
        value: the loss, for rules that ask for it; the closure's is taken otherwise.
        weight: of how many losses the gradient is a sum, for rules that ask for it (`accumulate`); 1 otherwise.  Other
            rules would leave it a sum, and refuse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        value = loss if value is None else value
        if torch.compiler.is_compiling():
            compiled.step(self._number, self.parameters(), value, weight)
        else:
            self.update(value, weight)
        return loss

    def parameters(self) -> list[torch.Tensor]:
        """Those of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def update(self, value: Any = None, weight: Any = None) -> None:
        """The update alone, as `step` does it between hooks and closure."""
        extras = self._extras(value, weight)
        scaled = "found_inf" in extras and "found_inf" not in self.rule.extras
        self._adopt_numbers_of_model()
        rules = [self._prepare(group, own, extras, scaled) for group, own in self._both()]
        params = self.parameters()
        grads = [p.grad for p in params]
        if self._plan is None or not self._plan.fits(rules, params, grads, self.state):
            self._plan = None
            self._plan = self._make_plan(rules, params, grads)
        if self._shared:
            check_agreement(self.rule, ((leaf, _comparable(hyper)) for leaf, hyper in self._shared))
        if self._plan.slots:
            try:
                self._plan.run(grads, self._updates)
            except Reshaped as error:
                raise self._explained(error) from None
            for group, own in self._both():
                grouping.own_values(self._names.keys, group, own, self._updates, force=False)

    @torch.no_grad()
    def eval_params(self) -> dict[str, torch.Tensor]:
        """The parameters to evaluate, by name: an average that the rule keeps, or those that are trained.

            output = torch.func.functional_call(model, optimizer.eval_params(), inputs)

        They are copies where they differ from the model's.  Without names (`named_parameters()`) this is an error.
        """
        evaluated = {}
        for group, own in self._both():
            hyper = grouping.read(self.rule, self._names.keys, group, own)
            for i, p in enumerate(group["params"]):
                leaf = _leaf(group, i)
                if not leaf.name:
                    raise ValueError(
                        "the parameters were given without names: give the optimizer model.named_parameters()."
                    )
                is_trained = p not in self.state or _is_input(self.rule.eval_program(leaf))
                evaluated[leaf.name] = (
                    p.detach()
                    if is_trained
                    else states.evaluated(self.rule, self._names, leaf, p, self.state[p], self._model, hyper)
                )
        return evaluated

    def _explained(self, error: Reshaped) -> ValueError:
        """The error about a leaf as one about the parameter."""
        slot = next(slot for slot in self._slots.values() if slot.leaf is error.leaf)
        where = next(
            _describe(group, i) for group in self.param_groups for i, p in enumerate(group["params"]) if p is slot.p
        )
        return ValueError(
            f"{where}: {error}. A parameter keeps its shape while an optimizer has it; if it was replaced (`p.data = "
            "...`), drop its state, `del optimizer.state[p]`, and its gradient, or make another optimizer."
        )

    def _both(self) -> Iterable[tuple[dict[str, Any], Group]]:
        if len(self.param_groups) != len(self._groups):
            raise ValueError(
                f"{self.rule.name}: there are {len(self.param_groups)} parameter groups and {len(self._groups)} were "
                "made: add one with add_param_group, and to leave parameters out give them no gradient."
            )
        return zip(self.param_groups, self._groups, strict=True)

    def _prepare(self, group: dict[str, Any], own: Group, extras: Mapping[str, Any], scaled: bool) -> Rule:
        """Check a group and read its numbers; returns the rule it runs."""
        grouping.refuse_two_owners(self.rule, group, own)
        grouping.refuse_change(self.rule, group, self._fixed)
        grouping.refuse_misplaced(self.rule, self._names, group, own)
        if grouping.known_count(self._updates) is not None:  # on a device only steps and loading change it
            grouping.own_values(self._names.keys, group, own, self._updates, force=False)
        hyper = grouping.read(self.rule, self._names.keys, group, own)
        for name in EXTRAS:
            if name in extras:
                hyper[name] = extras[name]
            else:
                hyper.pop(name, None)
        return self._variant(bool(group["maximize"]), scaled)

    def _extras(self, value: Any, weight: Any) -> dict[str, Any]:
        """What the training loop supplies for this update beyond gradients."""
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        extras: dict[str, Any] = {}
        if grad_scale is not None or found_inf is not None:
            extras["grad_scale"] = 1.0 if grad_scale is None else grad_scale
            extras["found_inf"] = 0.0 if found_inf is None else found_inf
        check_weight(self.rule, weight)
        given = {"value": value, "weight": weight}
        for name in given.keys() & set(self.rule.extras):
            extras[name] = EXTRAS[name] if given[name] is None else given[name]
        lacking = [name for name in self.rule.extras if extras.get(name) is None]
        if lacking == ["value"]:
            raise ValueError(
                f"{self.rule.name} needs the loss: write step(value=loss), or step(closure) that returns it."
            )
        if lacking:
            raise ValueError(
                f"{self.rule.name} needs {', '.join(lacking)}, which a GradScaler supplies: step through one."
            )
        for name, x in extras.items():
            if isinstance(x, torch.Tensor) and x.numel() != 1:
                raise ValueError(f"{name} must be one number, not a tensor of shape {tuple(x.shape)}.")
        return extras

    def _adopt_numbers_of_model(self) -> None:
        """Numbers of the model that somebody put into a group in place of ours are used."""
        for group in self.param_groups:
            for name, ours in {states.UPDATES: self._updates, **self._model}.items():
                if group.get(name) is not ours:
                    if group.get(name) is not None:
                        ours.copy_(torch.as_tensor(group[name]))
                    self._share()

    def _variant(self, descends_not: bool, scaled: bool) -> Rule:
        """The rule as this step runs it: inside what the gradient scaler and `maximize` ask for."""
        key = descends_not, scaled
        if key not in self._variants:
            rule = ascend(self.rule) if descends_not else self.rule
            self._variants[key] = unscale(rule) if scaled else rule
        return self._variants[key]

    def _make_plan(
        self, rules: Sequence[Rule], params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]
    ) -> Plan:
        """Make state where there is none, and pair each parameter that has a gradient with it."""
        self._check_gradients()
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                self._place(p)
        slots = []
        shared: dict[tuple[int, Any], tuple[Leaf, dict[str, Any]]] = {}
        for rule, (group, own) in zip(rules, self._both(), strict=True):
            for i, p in enumerate(group["params"]):
                if p.grad is not None:
                    slots.append(self._slot(rule, group, i, own.hyper))
                    leaf = _leaf(group, i)
                    numbers = numbers_of_model(self.rule, leaf)
                    shared.setdefault((id(own), numbers), (leaf, own.hyper))
        self._shared = [x for (_, numbers), x in shared.items() if numbers] if len(shared) > 1 else []
        known = self._slots | {slot.p: slot for slot in slots}  # those that rest come back
        self._slots = {p: slot for p, slot in known.items() if p in self.state}
        return Plan(rules, params, grads, slots, self.state)

    def _check_gradients(self) -> None:
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                g = p.grad
                if g is not None and g.layout is not torch.strided:
                    raise RuntimeError(
                        f"{self.rule.name} does not support sparse gradients, and {_describe(group, i)} has one. Make "
                        "the layer with sparse=False, or write p.grad = p.grad.to_dense() before the step."
                    )

    def _slot(self, rule: Rule, group: Mapping[str, Any], i: int, hyper: dict[str, Any]) -> Slot:
        p = group["params"][i]
        leaf = _leaf(group, i)
        state = self.state[p]
        program = rule.program(leaf)
        program = self._programs.setdefault(program, program)
        if not program.is_elementwise and (is_sharded(p) or p.is_complex()):
            raise TypeError(
                f"{_describe(group, i)} is {'a shard' if is_sharded(p) else 'complex'}, and {self.rule.name} works "
                "along the axes of whole real tensors: give such parameters another rule, in an optimizer of their own."
            )
        if program.is_random:
            _check_named(self.rule, group, i)
        old = self._slots.get(p)
        if old is not None and old.is_still(program, state, hyper):
            return old
        if not state:
            state.update(states.initial(rule, self._names, leaf, p, hyper, self.state_dtype))
        else:
            states.check(rule, self._names, leaf, state, p, _describe(group, i))
            if not isinstance(state.get("step"), torch.Tensor):
                state["step"] = states.scalar(float(state.get("step", 0.0)), p)
        shapes, stream = self.rule.state_shapes(leaf), float(random.stream(leaf.name))
        return Slot(program, p, state, hyper, self._names, self._model, shapes, stream, self.execution)

    # -- saving, copying ----------------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state saved by this rule or by its namesake in torch.optim; `trainfn_torch.checkpoint` says how."""
        state_dict = state_dict.copy() if isinstance(state_dict, dict) else state_dict
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        entries = self._entries()
        loaded = checkpoint.prepare(
            self.rule, self._names, self._fixed, self.param_groups, self._groups, entries, state_dict
        )
        self.param_groups, self._groups = loaded.param_groups, loaded.groups
        self.state = defaultdict(dict, loaded.state)
        self._plan, self._slots = None, {}
        with torch.no_grad():
            self._updates.fill_(loaded.updates)
            for name, x in loaded.model.items():
                if x is not None:
                    self._model[name].copy_(torch.as_tensor(x))
        self._share()
        for group, own in zip(self.param_groups, self._groups, strict=True):
            grouping.own_values(self._names.keys, group, own, self._updates)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _entries(self) -> list[checkpoint.Entry]:
        """The parameters in the order in which the user gave them."""
        entries = [
            checkpoint.Entry(p, _leaf(group, i), _describe(group, i), number)
            for number, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        ]
        self._given = _with_replaced(self._given, [entry.p for entry in entries])
        order = {id(p): i for i, p in reversed(list(enumerate(self._given)))}
        return sorted(entries, key=lambda entry: order[id(entry.p)])

    def __getstate__(self) -> dict[str, Any]:
        own = [
            (
                group.schedules,
                [k.name for k in self._names.keys if k.name in group.owned and grouping.is_ours(k, g, group)],
            )
            for g, group in zip(self.param_groups, self._groups, strict=True)
        ]
        kept = {name: getattr(self, name) for name in _KEPT}
        return {**super().__getstate__(), **kept, "rule": pickling.Portable(self.rule), "_owned": own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        owned = state.pop("_owned")
        self.rule = state.pop("rule").rule
        super().__setstate__(state)
        self._forget()
        self._groups = []
        for group, (schedules, keys) in zip(self.param_groups, owned, strict=True):
            # The numbers are recomputed when the next step begins, or stand on the device.
            self._groups.append(Group(schedules, {k: group[k] for k in keys}, dict.fromkeys(keys, None)))
        first = self.param_groups[0]
        self._updates = first[states.UPDATES]
        self._model = {f.name: first[f.name] for f in self.rule.fields if f.is_of_model and f.name in first}
        self._share()


# -- what users give ---------------------------------------------------------------------------------------------------


def _tensors_and_names(given: Mapping[str, Any]) -> tuple[list[torch.Tensor] | None, list[str] | None]:
    """The parameters of a group and their names, if it has names; None for what torch refuses."""
    params = given["params"]
    if isinstance(params, torch.Tensor):
        params = [params]
    if isinstance(params, set | str | bytes) or not isinstance(params, Iterable):
        return None, None
    params = list(params)
    if isinstance(given, dict):
        given["params"] = params  # an iterator can be used up once
    named = [isinstance(p, tuple) and len(p) == 2 for p in params]
    names = given.get("param_names")
    if params and all(named):
        names, params = [name for name, _ in params], [p for _, p in params]
    if not all(isinstance(p, torch.Tensor) for p in params):
        return None, None
    return params, None if names is None else list(names)


def _with_replaced(given: Sequence[torch.Tensor], present: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The given parameters, those that a user put into groups since standing where the ones they replaced stood."""
    here, known = set(map(id, present)), set(map(id, given))
    new = iter([p for p in present if id(p) not in known])
    kept = [p if id(p) in here else next(new, None) for p in given]
    return [*(p for p in kept if p is not None), *new]


def _without_repetition(
    params: Sequence[torch.Tensor], names: Sequence[str] | None
) -> tuple[list[torch.Tensor], list[str] | None]:
    """Each parameter once: torch warns of a repeated one, and updating it twice is nobody's wish."""
    first = [i for i, p in enumerate(params) if not any(p is q for q in params[:i])] if _repeats(params) else None
    if first is None:
        return list(params), None if names is None else list(names)
    return [params[i] for i in first], None if names is None else [names[i] for i in first]


def _repeats(params: Sequence[torch.Tensor]) -> bool:
    return len({id(p) for p in params}) < len(params)


def _check_words(rule: Rule, names: Names) -> None:
    """Numbers of the model stand in torch's groups, beside hyperparameters under torch's keys."""
    taken = {key.name for key in names.keys} & {f.name for f in rule.fields if f.is_of_model}
    if taken:
        raise ValueError(
            f"{rule.name} keeps a number of the model that is called {min(taken)}, as a key of torch's groups is: give "
            "that field of the state another name."
        )


def _check_parameter(p: torch.Tensor, leaf: Leaf) -> None:
    where = f"parameter {leaf.name!r}" if leaf.name else f"a parameter of shape {leaf.shape}"
    if p.dtype not in _DTYPES:
        raise TypeError(
            f"{where} has dtype {p.dtype}; updates are defined for {', '.join(map(str, _DTYPES))}. Leave it "
            "out of the optimizer."
        )
    if not is_sharded(p) and is_overlapping(p):
        raise ValueError(f"{where} is expanded: several of its elements are one number in memory. Give p.contiguous().")
    if p.is_conj() or p.is_neg():
        raise ValueError(
            f"{where} is a lazy conjugate or negative of other memory, of which only a copy could be updated. Give "
            "p.resolve_conj().resolve_neg()."
        )


def _check_named(rule: Rule, group: Mapping[str, Any], i: int) -> None:
    """Random numbers depend on the parameter's name."""
    if not group.get("param_names"):
        raise ValueError(
            f"{rule.name} draws random numbers by the parameters' names, and {_describe(group, i)} has none: give the "
            "optimizer model.named_parameters(), or a group's param_names."
        )


def _comparable(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, and what stands for one that only a device knows."""
    return {
        k: float(x) if not isinstance(x, torch.Tensor) or x.device.type == "cpu" else id(x) for k, x in hyper.items()
    }


def _is_input(program: Program) -> bool:
    """Whether it gives back the parameter that it is given."""
    return program.nodes[program.output["p"]].op == "input" and program.inputs(Sort.ARRAY) == ("p",)


def _leaf(group: Mapping[str, Any], i: int) -> Leaf:
    """A parameter as its program sees it: a complex one is computed with as pairs of numbers."""
    p = group["params"][i]
    return Leaf(_name(group, i), tuple(real(p).shape), p.is_complex())


def _leaves(group: Mapping[str, Any]) -> list[Leaf]:
    return [Leaf(_name(group, i), tuple(p.shape)) for i, p in enumerate(group["params"])]


def _name(group: Mapping[str, Any], i: int) -> str:
    names = group.get("param_names")
    return str(names[i]) if names else ""


def _describe(group: Mapping[str, Any], i: int) -> str:
    return (
        f"parameter {_name(group, i)!r}"
        if _name(group, i)
        else f"parameter {i} of its group, shape {tuple(group['params'][i].shape)}"
    )
