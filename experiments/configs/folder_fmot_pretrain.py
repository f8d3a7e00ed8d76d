"""FM-OT pre-training on images of your own: a folder or a .zip of them, cropped to 64 x 64, unconditional.

  python -m experiments.pretrain --config=experiments/configs/folder_fmot_pretrain.py --config.data.folder=FOLDER

The U-Net is that of Fashion-MNIST, wider and one level deeper. The settings are a place to start: judge by the samples. To use
the classes of dataset.json or of the sub-folders, add --config.network.num_classes=COUNT --config.label_dropout=0.1.
"""

from experiments.configs import fashion_fmot_pretrain
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    config = fashion_fmot_pretrain.get_config()
    config.workdir = "runs/folder_fmot_pretrain"
    config.data = dict(name="folder", folder="", flip=True, image_size=64)
    config.network.update(channels=(64, 128, 256), num_blocks=(2, 2, 2), head_channels=16, num_classes=0)
    config.update(num_steps=100_000, learning_rate=5e-4, warmup=1_000, ema_decay=0.9995, checkpoint_every=1_000)
    return config
