"""FM/v-CS on Fashion-MNIST, class-conditional: the velocity, under the cosine scheduler. See `_class_pretrain.py`."""

from experiments.configs import _class_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _class_pretrain.config("fashion_cosine_class_pretrain", scheduler="cosine", prediction="velocity")
