"""Outputs of other people's networks, for tests/models: `python -m tests.golden.make_models --edm FOLDER`.

Needs torch, torchcfm with POT (1.0.7 was used), diffusers (0.42.1 was used) and a checkout of github.com/NVlabs/edm (commit
008a4e5 was used). None of them is needed by the tests, which read models.json, names and shapes of the tensors, and
models.npz, inputs and outputs. The weights are drawn from the names (`weights.py`), here and in the tests. The networks
are small, with the options of the published ones. Also written: edm.pkl, a file as EDM publishes them, and torch_zip.pt and
torch_legacy.pt, small files of `torch.save` in its two formats.
"""

import argparse
import collections
import json
import pathlib
import pickle
import sys

import numpy as np

from tests.golden.weights import draw_all

HERE = pathlib.Path(__file__).parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--edm", required=True, help="a checkout of github.com/NVlabs/edm")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.edm)
    import diffusers
    import torch
    from torchcfm.models.unet.unet import UNetModelWrapper
    from training import networks

    torch.manual_seed(0)
    arrays, shapes = {}, {}

    def redraw(name, module):
        state = module.state_dict()
        shapes[name] = {key: list(value.shape) for key, value in state.items()}
        module.load_state_dict({key: torch.tensor(value) for key, value in draw_all(shapes[name]).items()})
        return module.eval()

    def noise(*shape):
        return torch.randn(shape)

    def save(name, **given):
        for key, value in given.items():
            arrays[f"{name}/{key}"] = np.asarray(value.detach() if hasattr(value, "detach") else value)

    # --- EDM: what the files in tests/golden of its own do not have. ---
    ncsnpp = dict(embedding_type="fourier", encoder_type="residual", channel_mult_noise=2, resample_filter=[1, 3, 3, 1])
    small = dict(img_resolution=8, img_channels=3, num_blocks=1, channel_mult=[1, 2])
    for name, kind, options in [
        ("edm/ncsnpp-ve", "VEPrecond", dict(**ncsnpp, model_channels=16, attn_resolutions=[4])),
        ("edm/ddpmpp-vp", "VPPrecond", dict(model_channels=16, attn_resolutions=[4], label_dim=4, augment_dim=9)),
        (
            "edm/adm-edm",
            "EDMPrecond",
            dict(model_type="DhariwalUNet", model_channels=64, attn_resolutions=[4], label_dim=5),
        ),
    ]:
        module = redraw(name, getattr(networks, kind)(**small, **options))
        sigma = torch.tensor([0.03, 0.5, 4.0, 70.0])
        x = noise(4, 3, 8, 8) * (sigma[:, None, None, None] ** 2 + 0.25).sqrt()
        labels = torch.eye(options["label_dim"])[torch.arange(4) % 3] if "label_dim" in options else None
        save(name, x=x, sigma=sigma, denoised=module(x, sigma, labels))
        if labels is not None:
            save(name, labels=labels, without=module(x, sigma))
        save(name, sigma_min=module.sigma_min, sigma_max=module.sigma_max)

    # A file as theirs: modules pickled as objects, but for their source code, which is not ours to pass on.
    for kind in vars(networks).values():
        if hasattr(kind, "_orig_module_src"):
            kind._orig_module_src = ""
    module = networks.EDMPrecond(**small, model_type="SongUNet", model_channels=8, attn_resolutions=[4], augment_dim=9)
    redraw("edm/file", module)
    del shapes["edm/file"]
    (HERE / "edm.pkl").write_bytes(pickle.dumps({"ema": module}))
    sigma, x = torch.tensor([0.03, 0.5, 4.0, 70.0]), noise(4, 3, 8, 8)
    save("edm/file", x=x, sigma=sigma, denoised=module(x, sigma))

    # --- torchcfm: the options of its CIFAR10 script, and the others. ---
    common = dict(dim=(3, 8, 8), num_channels=32, channel_mult=[1, 2], num_res_blocks=2, attention_resolutions="4")
    for name, options in [
        ("torchcfm/cifar10", dict(num_heads=4, num_head_channels=16)),
        (
            "torchcfm/guided",
            dict(
                num_heads=2,
                use_scale_shift_norm=True,
                resblock_updown=True,
                class_cond=True,
                num_classes=5,
                use_new_attention_order=True,
            ),
        ),
    ]:
        module = redraw(name, UNetModelWrapper(**common, **options))
        x, t = noise(3, 3, 8, 8), torch.tensor([0.0, 0.3, 1.0])
        labels = dict(y=torch.tensor([4, 4, 4])) if "class_cond" in options else {}
        save(name, x=x, t=t, velocity=module(t, x, **labels))

    # --- diffusers: the options of google/ddpm-cifar10-32, and the defaults. ---
    attention = dict(
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    common = dict(sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, **attention)
    published = dict(
        attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, act_fn="silu"
    )
    configs = {}
    for name, options in [("diffusers/cifar10", published), ("diffusers/defaults", dict(num_class_embeds=5))]:
        module = redraw(name, diffusers.UNet2DModel(**common, **options))
        configs[name] = {key: value for key, value in module.config.items() if value is None or key[0] != "_"}
        configs[name]["_class_name"] = "UNet2DModel"
        step = torch.tensor([0.0, 17.0, 500.0, 999.0])
        x = noise(4, 3, 8, 8)
        labels = dict(class_labels=torch.tensor([3, 3, 3, 3])) if "num_class_embeds" in options else {}
        save(name, x=x, step=step, output=module(x, step, **labels).sample)

    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        for prediction in ("epsilon", "sample", "v_prediction"):
            sampler = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
            output = arrays["diffusers/cifar10/output"]
            x1 = [
                sampler.step(torch.tensor(out), int(step), torch.tensor(x)).pred_original_sample.numpy()
                for out, step, x in zip(
                    output, arrays["diffusers/cifar10/step"], arrays["diffusers/cifar10/x"], strict=True
                )
            ]
            save(f"diffusers/{schedule}", alphas_cumprod=sampler.alphas_cumprod)
            save(f"diffusers/{schedule}/{prediction}", x1=np.stack(x1)[:, :1, :2, :2])

    np.savez_compressed(HERE / "models.npz", **arrays)
    text = json.dumps({"shapes": shapes, "configs": configs}, separators=(",", ":"))
    (HERE / "models.json").write_text(text.replace('},"', '},\n"') + "\n")

    # --- Files of torch.save: what a training loop puts in one. ---
    table = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = collections.OrderedDict(
        weight=table, turned=table.t(), part=table[1:3, 2:4], half=table.half(), short=table.bfloat16()
    )
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimiser = torch.optim.Adam([parameter])
    content = {
        "ema_model": state,
        "optim": optimiser.state_dict(),
        "step": 7,
        "parameter": parameter,
        "size": table.shape,
    }
    torch.save(content, HERE / "torch_zip.pt")
    torch.save(content, HERE / "torch_legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("edm.pkl", "models.npz", "models.json", "torch_zip.pt", "torch_legacy.pt"):
        print(name, (HERE / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
