"""Outputs of the InceptionV3 of the FID, for tests/models/test_inception.py: `python -m tests.golden.make_inception`.

Needs torch and torch-fidelity (0.4.0 was used), whose InceptionV3 is the graph of 2015; not its weights, which are drawn from the
names of the tensors (`weights.py`). Written: inception.npz with images, what torch makes of them at 299 x 299, the features of
both conventions (see bespoke_jax/models/inception.py), and the names and shapes of the tensors.
"""

import importlib.util
import json
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
import torch

from tests.golden.weights import draw

HERE = pathlib.Path(__file__).parent


def main():
    # Only this module of the package: the others want torchvision, and more.
    found = importlib.util.find_spec("torch_fidelity")
    sys.modules["torch_fidelity"] = importlib.util.module_from_spec(found)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with mock.patch("torch.load", return_value=None), mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("inception", ["2048"], tempfile.gettempdir())
    shapes = {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    missing, unknown = network.load_state_dict({k: torch.tensor(draw(k, v)) for k, v in shapes.items()}, strict=False)
    assert not unknown and all(key.startswith("fc.") or key.endswith("num_batches_tracked") for key in missing)

    images = torch.tensor(np.random.default_rng(0).integers(0, 256, (2, 3, 12, 10)), dtype=torch.uint8)
    images[1] = images[1] // 4 + 150  # bright, of little contrast
    resized = torch.nn.functional.interpolate(images / 255, size=(299, 299), mode="bilinear", align_corners=False)
    trunk = torch.nn.Sequential(*list(network.children())[:-1])  # all but the classes
    arrays = {
        "images": images,
        "resized": resized[:, :, ::23, ::23],
        "features/pytorch-fid": trunk(2 * resized - 1).flatten(1),
        "features/tensorflow": network(images)[0],
    }
    arrays = {name: value.numpy() for name, value in arrays.items()}
    np.savez_compressed(HERE / "inception.npz", **arrays, shapes=json.dumps(shapes))
    print("inception.npz", (HERE / "inception.npz").stat().st_size, "bytes;", len(shapes), "tensors")


if __name__ == "__main__":
    main()
