"""The shipped classifier of Fashion-MNIST, trained by `experiments.train_classifier`: 64 features for a Frechet distance.

Cost: 3.5 minutes on 2 CPU cores shared with other jobs. Expect: 89.7 % of the test images classified correctly.
"""

from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            workdir="runs/fashion_classifier",
            seed=0,
            folder="",  # with the four idx files; if empty, where Debian's dataset-fashion-mnist puts them
            channels=(24, 48, 64),
            num_steps=5_000,
            batch_size=64,
            learning_rate=3e-3,
        )
    )
