"""Where batches come from: samples by their indices, or an iterable that gives whole batches.

`source.batch(n)` is batch n of the run, in the parts that are taken one after the other, with the number of samples.
Of samples it is a function of the seed and n.  An iterable is gone through epoch after epoch; a run that is resumed
passes over what it had already, so it is the iterable's own to give the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from trainfn.training.data import Indices
from trainfn.training.recipe import Recipe


class Batch(NamedTuple):
    """The parts of one update's batch, and how many samples they have together."""

    parts: Sequence[Any]
    samples: int


class Source(Protocol):
    """What a run takes its batches from."""

    def batch(self, n: int) -> Batch: ...

    def epoch(self, n: int) -> int: ...

    def close(self) -> None: ...


class Samples:
    """Batches of what can be indexed: arrays, tuples, lists and dicts of arrays with one length, or anything that has a
    length and takes an array of indices.

    take: what makes a part of (data, indices), where that is not indexing.
    rank, ranks: of these processes the share of one; the samples that are counted are all of the batch.
    """

    def __init__(
        self,
        data: Any,
        recipe: Recipe,
        take: Callable[[Any, Indices], Any] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._data, self._recipe, self._place = data, recipe, (rank, ranks)
        self._take = take or taken
        self._batches = recipe.batches(_length(data))

    def epoch(self, n: int) -> int:
        return self._batches.epoch(n)

    def close(self) -> None:
        pass

    def batch(self, n: int) -> Batch:
        indices = self._batches[n]
        parts = self._recipe.micro_batches(indices, *self._place)
        return Batch([self._take(self._data, part) for part in parts], len(indices))


class InOrder:
    """All samples once, in their order, in parts of so many; or what an iterable gives.  It may be gone through again.

    prepare: what is done with a part.
    rank, ranks: of these processes the share of one in each part, which may be empty: all take as many parts.
    """

    def __init__(
        self,
        data: Any,
        size: int,
        prepare: Callable[[Any], Any],
        take: Callable[[Any, Indices], Any] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._data, self._size, self._prepare, self._take = data, size * ranks, prepare, take or taken
        self._rank, self._ranks = rank, ranks

    def __iter__(self) -> Iterator[Any]:
        if not is_indexed(self._data):
            yield from map(self._prepare, self._data)
            return
        length = _length(self._data)
        for i in range(0, length, self._size):
            indices = np.arange(i, min(i + self._size, length))
            yield self._prepare(self._take(self._data, np.array_split(indices, self._ranks)[self._rank]))


def is_indexed(data: Any) -> bool:
    """Whether data are samples, and not an iterable of batches."""
    return isinstance(data, Mapping | tuple | list) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def taken(data: Any, indices: Indices) -> Any:
    """Those samples of arrays, or of tuples, lists or dicts of arrays."""
    if isinstance(data, Mapping):
        return {k: taken(x, indices) for k, x in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(taken(x, indices) for x in data)
    return data[indices]


def _length(data: Any) -> int:
    """How many samples there are, as every array in data says."""
    lengths = dict(_lengths(data))
    if not lengths:
        raise ValueError("there are no data: the tuple, list or dict is empty.")
    if len(set(lengths.values())) > 1:
        spelt = ", ".join(f"{name or 'one'}: {n}" for name, n in lengths.items())
        raise ValueError(f"the arrays of the data have unequal lengths, {spelt}: the first axis counts samples.")
    return next(iter(lengths.values()))


def _lengths(data: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(data, Mapping | tuple | list):
        for k, x in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _lengths(x, f"{name}[{k!r}]")
    else:
        yield name, len(data)


class Stream:
    """Batches of an iterable, such as a loader with workers, each of them one update's, in one part.

    begin: called with the number of an epoch before it begins, to seed what shuffles.
    """

    def __init__(self, batches: Any, begin: Callable[[int], None]) -> None:
        self._batches, self._begin = batches, begin
        self._epoch, self._next, self._ends = -1, 0, [0]  # batches at whose numbers epochs ended
        self._iterator: Iterator[Any] = iter(())

    def epoch(self, n: int) -> int:
        return sum(1 for end in self._ends[1:] if n >= end)

    def close(self) -> None:
        pass

    def batch(self, n: int) -> Batch:
        while self._next < n:
            self._advance()
        batch = self._advance()
        return Batch([batch], samples_of(batch))

    def _advance(self) -> Any:
        for batch in self._iterator:
            self._next += 1
            return batch
        if self._next == self._ends[-1] and self._epoch >= 0:
            raise ValueError(
                "the loader gave no batch in a whole epoch: it is empty, or an iterator that can be used up once. Give "
                "something that can be iterated over again, such as a list or a DataLoader."
            )
        if self._epoch >= 0:
            self._ends.append(self._next)
        self._epoch += 1
        self._begin(self._epoch)
        self._iterator = iter(self._batches)
        return self._advance()


def samples_of(batch: Any) -> int:
    """How many samples a batch has: the length of the first array in it."""
    while isinstance(batch, Mapping | tuple | list):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch), 0)
    shape = getattr(batch, "shape", ())
    return int(shape[0]) if shape else 1


class Prepared:
    """A source with something done to each part of its batches, such as sending it to a device."""

    def __init__(self, source: Source, prepare: Callable[[Any], Any]) -> None:
        self._source, self._prepare = source, prepare

    def epoch(self, n: int) -> int:
        return self._source.epoch(n)

    def batch(self, n: int) -> Batch:
        batch = self._source.batch(n)
        return batch._replace(parts=[self._prepare(part) for part in batch.parts])

    def close(self) -> None:
        pass


class Prefetched:
    """A source whose next batch is made by a thread while this one is computed with.

    Only one that depends on nothing but n may be: what draws from a library's own generator would not be repeated.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._worker = ThreadPoolExecutor(1, "trainfn-batches")
        self._coming: tuple[int, Future[Batch]] | None = None

    def epoch(self, n: int) -> int:
        return self._source.epoch(n)

    def batch(self, n: int) -> Batch:
        coming, self._coming = self._coming, None
        future = coming[1] if coming is not None and coming[0] == n else self._worker.submit(self._source.batch, n)
        batch = future.result()
        self._coming = n + 1, self._worker.submit(self._source.batch, n + 1)
        return batch

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
