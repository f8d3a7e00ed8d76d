"""How fast batches are made, on this machine: `python -m benchmarks.loader [--threads 1 2]`.

Prints images per second, half of them mirrored, for data sets in memory and for a folder of JPEGs of 500 x 375, a usual size in
ImageNet, decoded and cropped to 64, 128 and 256. The images are made up. Every figure covers --seconds seconds, after the batches
that were prepared while nobody waited.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import tempfile
import time

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from experiments import data

BATCH_SIZE = 64
NUM_JPEGS = 256


def in_memory(side: int) -> data.DataSet:
    """Too many images for the processor's caches."""
    images = np.random.default_rng(0).integers(0, 256, (2**28 // (3 * side**2), side, side, 3), np.uint8)
    return data.DataSet.in_memory(images, np.zeros(len(images)), num_classes=1, source="random")


def write_jpegs(folder: pathlib.Path):
    """Random colours, enlarged, with some grain."""
    random = np.random.default_rng(0)
    for i in range(NUM_JPEGS):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        grain = random.integers(-12, 13, (375, 500, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(
            folder / f"{i}.jpg", quality=90
        )


def images_per_second(dataset: data.DataSet, num_threads: int, seconds: float) -> float:
    with contextlib.closing(data.batches(dataset, 0, itertools.count(), BATCH_SIZE, True, num_threads)) as batches:
        for _ in range(num_threads + 2):  # those prepared while nobody waited
            next(batches)
        start, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            count += len(next(batches)[0])
        return count / spent


def main(threads: list[int], seconds: float):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_jpegs(folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) / NUM_JPEGS
        sets = {f"in memory, {side} x {side}": (lambda side=side: in_memory(side)) for side in (32, 64)}
        for side in (64, 128, 256):
            section = ConfigDict(dict(name="folder", folder=name, flip=True, image_size=side))
            sets[f"JPEGs of {size / 1024:.0f} KB to {side} x {side}"] = lambda section=section: data.load(section)
        print(f"Images per second, batches of {BATCH_SIZE}\n")
        print("| data set | " + " | ".join(f"{n} thread{'s' * (n > 1)}" for n in threads) + " |")
        print("|---" * (1 + len(threads)) + "|")
        for label, make in sets.items():
            dataset = make()
            speeds = [f"{images_per_second(dataset, n, seconds):,.0f}" for n in threads]
            print(f"| {label} | " + " | ".join(speeds) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--seconds", type=float, default=5.0)
    main(**vars(parser.parse_args()))
