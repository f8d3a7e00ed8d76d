"""eps-VP on Fashion-MNIST, class-conditional: the noise, under the variance-preserving scheduler. See `_class_pretrain.py`."""

from experiments.configs import _class_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _class_pretrain.config("fashion_vp_class_pretrain", scheduler="vp", prediction="noise")
