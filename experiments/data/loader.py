"""Batches as a pure function of (seed, step). Threads prepare them ahead, so that an accelerator does not wait."""

import collections
import functools
import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from jaxtyping import Int, Int32, UInt8

from bespoke_jax.flow.sharding import num_cores
from experiments.data.dataset import DataSet

__all__ = ["Batch", "batch", "batch_indices", "batches"]

Batch: TypeAlias = tuple[UInt8[np.ndarray, "B H W C"], Int32[np.ndarray, "B"]]
"""Images and their labels."""


@functools.lru_cache(maxsize=2)  # for a million images it takes longer than a batch
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> Int[np.ndarray, "B"]:
    """Indices of the images of batch number `step`, by a fresh permutation each epoch: a pure function of (seed, step)."""
    if not 1 <= batch_size <= num_images:
        raise ValueError(f"batch_size: wanted 1 to {num_images}, the number of images, got {batch_size}.")
    epoch, position = divmod(step, num_images // batch_size)
    return _permutation(seed, epoch, num_images)[position * batch_size : (position + 1) * batch_size]


def batch(dataset: DataSet, seed: int, step: int, batch_size: int, flip: bool = False) -> Batch:
    """(images, labels) of batch number `step`: uint8 [B, H, W, C], int32 [B]. `flip` mirrors half of them, left to right."""
    indices = batch_indices(seed, step, batch_size, len(dataset))
    images = dataset.read(indices)
    if flip:
        mirrored = np.random.default_rng((seed, step, 1)).random(batch_size) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images, dataset.labels[indices]


def batches(
    dataset: DataSet,
    seed: int,
    steps: Iterable[int],
    batch_size: int,
    flip: bool = False,
    num_threads: int | None = None,
) -> Generator[Batch]:
    """`batch` for each of `steps`, in order. Close it (`contextlib.closing`) if you stop before its end.

    Args:
        dataset, seed, batch_size, flip: as for `batch`.
        steps: numbers of the batches.
        num_threads: None for one per core. Each thread makes one batch at a time (decoding and copying release the GIL), and
            two batches more than there are threads are prepared ahead.

    Raises:
        ValueError: for an image that cannot be read, when its batch is due.

    Examples:
        >>> numbers = np.arange(6, dtype=np.uint8)[:, None, None, None]
        >>> dataset = DataSet.in_memory(numbers, np.zeros(6), num_classes=1, source="numbers")
        >>> seen = [int(i) for images, _ in batches(dataset, 0, range(3), batch_size=2) for i in images.ravel()]
        >>> sorted(seen)
        [0, 1, 2, 3, 4, 5]
    """
    num_threads = num_cores() if num_threads is None else num_threads
    pool, pending, ahead = ThreadPoolExecutor(num_threads), collections.deque(), iter(steps)

    def prepare(count):
        for step in itertools.islice(ahead, count):
            pending.append(pool.submit(batch, dataset, seed, step, batch_size, flip))

    try:
        prepare(num_threads + 2)
        while pending:
            ready = pending.popleft().result()
            prepare(1)
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
