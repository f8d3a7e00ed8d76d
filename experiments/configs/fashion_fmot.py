"""Solvers for the shipped Fashion-MNIST flow (28 x 28 x 1, FM-OT), trained by `pretrain` with fashion_fmot_pretrain.py.

Cost: 3 minutes on 2 AMD EPYC cores.
Expect: at NFE 8 PSNR 34.6 dB from rk2-bespoke and 38.3 from a learned table, where rk2 has 28.3; rk4 at NFE 16 has 33.2.
"""

import ml_collections


def get_config():
    # Many steps of few paths: a quadratic holds no further than a step.
    stage = dict(
        loss="endpoint", optimizer="lm", learning_rate=1e-2, batch_size=16, chunk_size=16, probes=1, validate_every=4
    )
    return ml_collections.ConfigDict(
        dict(
            workdir="runs/fashion_fmot",
            seed=0,
            flow=dict(name="fashion_fmot"),
            # num_steps > 0: learn this solver only.
            solver=dict(base="rk2", num_steps=0),
            # Steps n; NFE is 2n for rk2, else n.
            solvers=dict(rk1=(4, 8), rk2=(4, 5, 8, 10), table=(8,)),
            paths=dict(num_train=96, num_validation=64, num_test=128, rtol=1e-5, atol=1e-5),
            # stage1, stage2, ... in this order; num_iterations=0 leaves one out.
            # loss: rmse_bound (the paper's), local, rmse or endpoint.
            # optimizer: adam, which heeds learning_rate, or lm (Levenberg-Marquardt in small steps), which heeds probes.
            # validate_every: iterations between two looks at the validation paths, each of which leaves a checkpoint.
            # learned: of rk1 and rk2 "both", or the "time" or "scale" part alone.
            fit=dict(
                learned="both",
                choose_start=True,
                # > 0: learn each solver for so many velocity evaluations, true ends included, by bj.frugal. It needs neither the
                # stages nor the training and validation paths.
                budget=0,
                stage1=dict(num_iterations=32, **stage),
                stage2=dict(num_iterations=0, **stage),
            ),
            report=dict(num_samples=8),
        )
    )
