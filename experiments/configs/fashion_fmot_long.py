"""More and better solvers for the shipped Fashion-MNIST flow than fashion_fmot.py learns in a few minutes; what its fields mean.

Cost: 6 minutes on 2 Intel Xeon cores, in an earlier version.
Expect: at NFE 8 a PSNR of 34.7 dB for rk2-bespoke and 40.7 for a learned table, against 28.3 for rk2; rk4 has 33.2 at NFE 16.
"""

from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    # Many steps on few paths each: the quadratic model of the loss holds for a step only.
    stage = dict(
        **dict(loss="endpoint", optimizer="lm", learning_rate=1e-2, batch_size=16, chunk_size=16),
        **dict(keep_activations=False, probes=1, validate_every=4),
    )
    return ConfigDict(
        dict(
            workdir="runs/fashion_fmot_long",
            seed=0,
            flow=dict(name="fashion_fmot"),
            # num_steps > 0: learn only this solver.
            solver=dict(base="rk2", num_steps=0),
            # Numbers of steps n; NFE is 2n for rk2, n for the others.
            solvers=dict(rk1=(4, 8), rk2=(4, 5, 8, 10), table=(8,)),
            paths=dict(num_train=96, num_validation=64, num_test=128, rtol=1e-5, atol=1e-5),
            # stage1, stage2, ... in this order; num_iterations=0 skips one.
            # loss: rmse_bound (the paper's), local, rmse or endpoint.
            # optimizer: adam, which uses learning_rate, or lm (Levenberg-Marquardt in small steps), which uses probes;
            # lm_untested takes the steps of bj.frugal, untested and with a longer memory, which suit a stage of few updates.
            # chunk_size: paths that go through the network together.
            # keep_activations: lm then takes a pass of the network less, and NFE times the memory.
            # validate_every: iterations between validations, each of which writes a checkpoint.
            # num_start_paths: on how many paths the best few starts are compared, if choose_start; 32 if left out.
            # learned: for rk1 and rk2 "both", or the "time" or "scale" part alone.
            fit=dict(
                learned="both",
                choose_start=True,
                num_start_paths=32,
                # > 0: learn each solver by bj.frugal with this many velocity evaluations, true ends included. The stages and the
                # training and validation paths are not used then.
                budget=0,
                stage1=dict(num_iterations=32, **stage),
                stage2=dict(num_iterations=0, **stage),
            ),
            report=dict(num_samples=8),
        )
    )
