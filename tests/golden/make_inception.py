"""Outputs of the InceptionV3 of the FID, for tests/models/test_inception.py: `python -m tests.golden.make_inception`.

Needs torch, nothing else. The graph is written down here in PyTorch's terms from the published facts: layers and paddings of
torchvision's InceptionV3, and the changes that pytorch-fid documents (see bespoke_jax/models/inception.py). Weights are drawn
from the names of the tensors (`weights.py`). Written: inception.npz, inputs and outputs, and the names and shapes of the tensors.
"""

import json
import pathlib

import numpy as np
import torch
from torch.nn import functional as F

from tests.golden.weights import draw

HERE = pathlib.Path(__file__).parent


class Trunk:
    """Functions on NCHW tensors; a layer's weights are made when it is first met."""

    def __init__(self):
        self.shapes = {}

    def weight(self, name, *shape):
        self.shapes[name] = shape
        return torch.tensor(draw(name, shape))

    def conv(self, x, name, width, kernel, stride=1, padding=0):
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = F.conv2d(x, self.weight(f"{name}.conv.weight", width, x.shape[1], *kernel), stride=stride, padding=padding)
        mean, var, scale, shift = (
            self.weight(f"{name}.bn.{part}", width) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, var, scale, shift, training=False, eps=0.001))

    def a(self, x, n, pool):
        b1 = self.conv(x, f"{n}.branch1x1", 64, 1)
        b5 = self.conv(self.conv(x, f"{n}.branch5x5_1", 48, 1), f"{n}.branch5x5_2", 64, 5, padding=2)
        b3 = self.conv(self.conv(x, f"{n}.branch3x3dbl_1", 64, 1), f"{n}.branch3x3dbl_2", 96, 3, padding=1)
        b3 = self.conv(b3, f"{n}.branch3x3dbl_3", 96, 3, padding=1)
        bp = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([b1, b5, b3, self.conv(bp, f"{n}.branch_pool", pool, 1)], 1)

    def b(self, x, n):
        b3 = self.conv(x, f"{n}.branch3x3", 384, 3, 2)
        bd = self.conv(self.conv(x, f"{n}.branch3x3dbl_1", 64, 1), f"{n}.branch3x3dbl_2", 96, 3, padding=1)
        bd = self.conv(bd, f"{n}.branch3x3dbl_3", 96, 3, 2)
        return torch.cat([b3, bd, F.max_pool2d(x, 3, 2)], 1)

    def c(self, x, n, c7):
        row, column = dict(kernel=(1, 7), padding=(0, 3)), dict(kernel=(7, 1), padding=(3, 0))
        b1 = self.conv(x, f"{n}.branch1x1", 192, 1)
        b7 = self.conv(self.conv(x, f"{n}.branch7x7_1", c7, 1), f"{n}.branch7x7_2", c7, **row)
        b7 = self.conv(b7, f"{n}.branch7x7_3", 192, **column)
        bd = self.conv(self.conv(x, f"{n}.branch7x7dbl_1", c7, 1), f"{n}.branch7x7dbl_2", c7, **column)
        bd = self.conv(self.conv(bd, f"{n}.branch7x7dbl_3", c7, **row), f"{n}.branch7x7dbl_4", c7, **column)
        bd = self.conv(bd, f"{n}.branch7x7dbl_5", 192, **row)
        bp = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([b1, b7, bd, self.conv(bp, f"{n}.branch_pool", 192, 1)], 1)

    def d(self, x, n):
        b3 = self.conv(self.conv(x, f"{n}.branch3x3_1", 192, 1), f"{n}.branch3x3_2", 320, 3, 2)
        b7 = self.conv(x, f"{n}.branch7x7x3_1", 192, 1)
        b7 = self.conv(b7, f"{n}.branch7x7x3_2", 192, (1, 7), padding=(0, 3))
        b7 = self.conv(b7, f"{n}.branch7x7x3_3", 192, (7, 1), padding=(3, 0))
        b7 = self.conv(b7, f"{n}.branch7x7x3_4", 192, 3, 2)
        return torch.cat([b3, b7, F.max_pool2d(x, 3, 2)], 1)

    def e(self, x, n, last):
        row, column = dict(kernel=(1, 3), padding=(0, 1)), dict(kernel=(3, 1), padding=(1, 0))
        b1 = self.conv(x, f"{n}.branch1x1", 320, 1)
        b3 = self.conv(x, f"{n}.branch3x3_1", 384, 1)
        b3 = [self.conv(b3, f"{n}.branch3x3_2a", 384, **row), self.conv(b3, f"{n}.branch3x3_2b", 384, **column)]
        bd = self.conv(self.conv(x, f"{n}.branch3x3dbl_1", 448, 1), f"{n}.branch3x3dbl_2", 384, 3, padding=1)
        bd = [self.conv(bd, f"{n}.branch3x3dbl_3a", 384, **row), self.conv(bd, f"{n}.branch3x3dbl_3b", 384, **column)]
        bp = F.max_pool2d(x, 3, 1, 1) if last else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([b1, *b3, *bd, self.conv(bp, f"{n}.branch_pool", 192, 1)], 1)

    def __call__(self, x):
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", 32, 3, 2), "Conv2d_2a_3x3", 32, 3)
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3", 64, 3, padding=1), 3, 2)
        x = self.conv(self.conv(x, "Conv2d_3b_1x1", 80, 1), "Conv2d_4a_3x3", 192, 3)
        x = F.max_pool2d(x, 3, 2)
        x = self.a(self.a(self.a(x, "Mixed_5b", 32), "Mixed_5c", 64), "Mixed_5d", 64)
        x = self.c(self.c(self.b(x, "Mixed_6a"), "Mixed_6b", 128), "Mixed_6c", 160)
        x = self.c(self.c(x, "Mixed_6d", 160), "Mixed_6e", 192)
        x = self.e(self.e(self.d(x, "Mixed_7a"), "Mixed_7b", last=False), "Mixed_7c", last=True)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def main():
    trunk, random = Trunk(), np.random.default_rng(0)
    images = random.integers(0, 256, (2, 3, 12, 10)).astype(np.uint8)
    x = random.uniform(-1, 1, (2, 3, 107, 107)).astype(np.float16)  # small: the trunk takes sides from 75
    with torch.no_grad():
        resized = F.interpolate(torch.tensor(images) / 255, size=(299, 299), mode="bilinear", align_corners=False)
        arrays = dict(
            images=images,
            resized=resized.numpy()[:, :, ::23, ::23],
            features_of_images=trunk(2 * resized - 1).numpy(),
            x=x,
            features=trunk(torch.tensor(x.astype(np.float32))).numpy(),
            shapes=json.dumps(trunk.shapes),
        )
    np.savez_compressed(HERE / "inception.npz", **arrays)
    print("inception.npz", (HERE / "inception.npz").stat().st_size, "bytes;", len(trunk.shapes), "tensors;", end=" ")
    print("features", arrays["features"].mean(), arrays["features"].std(), arrays["features_of_images"].std())


if __name__ == "__main__":
    main()
