"""Every published setting: what a paper or its code says of a cell is what the cell composes to.

The numbers stand here once more on purpose: typed from the sources, not read from conf/.
"""

from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf

from kdbench.config.check import find_problems
from kdbench.config.compose import CONF, compose_config
from kdbench.config.tuned import read_settings

CE = "objective.ce_weight"
KD, KD_RAMP = "objective.terms.kd.weight", "objective.terms.kd.ramp"
TCKD, NCKD = "objective.terms.tckd.weight", "objective.terms.nckd.weight"
TCKD_RAMP, NCKD_RAMP = "objective.terms.tckd.ramp.epochs", "objective.terms.nckd.ramp.epochs"
DTKD, DTKD_RAMP = "objective.terms.dtkd.weight", "objective.terms.dtkd.ramp.epochs"
TAU, EXPONENT = "temperature.tau", "temperature.exponent"
LOOPS, DECAY = "temperature.loops", "temperature.weight_decay"
FROM, EVERY = "temperature.policy_from", "temperature.update_every"
STAGES, STAGES_FOR = "temperature.reward_stages", "temperature.schedule_epochs"
LR, EPOCHS, BATCH = "optim.lr", "run.epochs", "dataset.batch_size"
DROPS, DELTA = "optim.schedule.milestones", "plugin.delta"
LEVELS = [
    f"objective.terms.{level}.weight"
    for level in ("instance", "instance_strong", "instance_again", "class", "batch")
]


class Row(NamedTuple):
    """A method on CIFAR-100: what is the same for all pairs, then a table with pairs as lines."""

    always: dict[str, Any]
    columns: tuple[str, ...]
    cells: dict[str, tuple]


def lines(value, *pairs):
    """The same line for several pairs."""
    return dict.fromkeys(pairs, value)


# epochs, and drops after 150, 180 and 210 of them
IN_480, IN_960 = (480, [0.3125, 0.375, 0.4375]), (960, [0.15625, 0.1875, 0.21875])

# fmt: off
CIFAR = {
    "scratch": Row({CE: 1, BATCH: 64, EPOCHS: 240, DROPS: [0.625, 0.75, 0.875]}, (LR,), {
        **lines((0.05,), "resnet56_resnet20", "resnet110_resnet20", "resnet110_resnet32",
                "resnet32x4_resnet8x4", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1", "vgg13_vgg8",
                "resnet50_vgg8", "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2",
                "wrn_40_2_resnet8x4"),
        **lines((0.01,), "vgg13_mobilenetv2", "resnet50_mobilenetv2", "resnet32x4_shufflenetv1",
                "resnet32x4_shufflenetv2", "wrn_40_2_shufflenetv1", "wrn_40_2_mobilenetv2"),
    }),
    # RepDistiller, mdistiller
    "kd": Row({TAU: 4, CE: 0.1, KD: 0.9, BATCH: 64, EPOCHS: 240}, (LR,), {
        **lines((0.05,), "resnet56_resnet20", "resnet110_resnet20", "resnet110_resnet32",
                "resnet32x4_resnet8x4", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1", "vgg13_vgg8",
                "resnet50_vgg8", "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2",
                "wrn_40_2_resnet8x4"),
        **lines((0.01,), "vgg13_mobilenetv2", "resnet50_mobilenetv2", "resnet32x4_shufflenetv1",
                "resnet32x4_shufflenetv2", "wrn_40_2_shufflenetv1", "wrn_40_2_mobilenetv2"),
    }),
    "kd_dot": Row({TAU: 4, CE: 0.1, KD: 0.9, DELTA: 0.075}, (LR,), {
        "resnet32x4_resnet8x4":    (0.05,),
        "vgg13_vgg8":              (0.05,),
        "resnet32x4_shufflenetv2": (0.01,),
    }),
    "dkd": Row({TCKD: 1, CE: 1, TAU: 4, TCKD_RAMP: 20, NCKD_RAMP: 20}, (NCKD,), {
        **lines((8,), "resnet32x4_resnet8x4", "resnet32x4_shufflenetv1", "resnet32x4_shufflenetv2",
                "wrn_40_2_shufflenetv1", "resnet50_mobilenetv2"),
        **lines((2,), "resnet56_resnet20", "resnet110_resnet32"),
        **lines((6,), "vgg13_vgg8", "vgg13_mobilenetv2", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1"),
        # names of the logs of Sun et al.
        **lines((2,), "resnet110_resnet20", "resnet32x4_wrn_16_2", "wrn_40_2_resnet8x4",
                "wrn_40_2_mobilenetv2"),
        "resnet32x4_wrn_40_2": (8,),
    }),
    # Wei and Bai, released configs
    "dtkd": Row({
        CE: 1, TAU: 4, "objective.terms.kd.strategy.tau": 4, DTKD_RAMP: 20, f"{KD_RAMP}.epochs": 20,
    }, (DTKD, KD, LR), {
        "resnet56_resnet20":       (1, 0.5, 0.05),
        "resnet110_resnet32":      (1, 0.5, 0.05),
        "resnet32x4_resnet8x4":    (3, 1, 0.05),
        "wrn_40_2_wrn_16_2":       (3, 1, 0.05),
        "wrn_40_2_wrn_40_1":       (1, 0.5, 0.05),
        "vgg13_vgg8":              (3, 1, 0.05),
        "vgg13_mobilenetv2":       (3, 1, 0.01),
        "resnet50_mobilenetv2":    (3, 2, 0.01),
        "resnet32x4_shufflenetv1": (3, 1, 0.01),
        "resnet32x4_shufflenetv2": (3, 1, 0.01),
        "wrn_40_2_shufflenetv1":   (2, 0.5, 0.01),
    }),
    # Zheng and Yang, appendix
    "ttm": Row({CE: 1, KD_RAMP: None}, (EXPONENT, KD), {
        "wrn_40_2_wrn_16_2":       (0.1, 101),
        "wrn_40_2_wrn_40_1":       (0.1, 76),
        "resnet56_resnet20":       (0.3, 7),
        "resnet110_resnet20":      (0.2, 8),
        "resnet110_resnet32":      (0.1, 33),
        "resnet32x4_resnet8x4":    (0.1, 100),
        "vgg13_vgg8":              (0.1, 45),
        "vgg13_mobilenetv2":       (0.2, 16),
        "resnet50_mobilenetv2":    (0.2, 20),
        "resnet50_vgg8":           (0.1, 70),
        "resnet32x4_shufflenetv1": (0.2, 12),
        "resnet32x4_shufflenetv2": (0.4, 40),
        "wrn_40_2_shufflenetv1":   (0.3, 8),
    }),
    "wttm": Row({CE: 1, KD_RAMP: None}, (EXPONENT, KD), {
        "wrn_40_2_wrn_16_2":       (0.1, 4),
        "wrn_40_2_wrn_40_1":       (0.1, 3),
        "resnet56_resnet20":       (0.3, 1.5),
        "resnet110_resnet20":      (0.2, 2),
        "resnet110_resnet32":      (0.1, 1.5),
        "resnet32x4_resnet8x4":    (0.1, 3),
        "vgg13_vgg8":              (0.1, 2.25),
        "vgg13_mobilenetv2":       (0.2, 3),
        "resnet50_mobilenetv2":    (0.2, 5),
        "resnet50_vgg8":           (0.1, 2),
        "resnet32x4_shufflenetv1": (0.2, 1.4),
        "resnet32x4_shufflenetv2": (0.4, 16),
        "wrn_40_2_shufflenetv1":   (0.3, 3),
    }),
    # Li et al., released commands
    "ctkd": Row({
        CE: 0.1, KD: 0.9, LOOPS: 10, DECAY: 5e-4, "temperature.tau_min": 1,
        "temperature.tau_range": 20, "temperature.theta_init": 1, "temperature.mode": "global",
    }, (LR,), {
        **lines((0.05,), "resnet56_resnet20", "resnet110_resnet20", "resnet110_resnet32",
                "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1", "vgg13_vgg8"),
        # the same command by Sun et al.
        **lines((0.05,), "resnet32x4_resnet8x4", "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2",
                "wrn_40_2_resnet8x4"),
        **lines((0.01,), "resnet32x4_shufflenetv2", "wrn_40_2_mobilenetv2", "vgg13_mobilenetv2",
                "resnet50_mobilenetv2"),
    }),
    "dkd_ctkd": Row({CE: 1, "objective.terms.tckd.ramp": None, "objective.terms.nckd.ramp": None},
                    (TCKD, NCKD), {"resnet56_resnet20": (1, 2)}),
    # Sun et al., names of the released logs, and the released command for CTKD
    "logit_std": Row({CE: 0.1, "temperature.form": "code"}, (TAU, KD), {
        "resnet32x4_resnet8x4":    (2, 9),
        "vgg13_vgg8":              (3, 9),
        "wrn_40_2_wrn_40_1":       (2, 9),
        "wrn_40_2_wrn_16_2":       (2, 9),
        "resnet56_resnet20":       (2, 9),
        "resnet110_resnet32":      (2, 9),
        "resnet110_resnet20":      (4, 12),
        "resnet32x4_shufflenetv2": (2, 9),
        "resnet32x4_wrn_16_2":     (3, 9),
        "resnet32x4_wrn_40_2":     (3, 9),
        "wrn_40_2_resnet8x4":      (2, 9),
        "wrn_40_2_mobilenetv2":    (3, 9),
        "vgg13_mobilenetv2":       (3, 9),
        "resnet50_mobilenetv2":    (3, 1),
    }),
    "dkd_logit_std": Row({CE: 1, TCKD_RAMP: 20, NCKD_RAMP: 20}, (TAU, TCKD, NCKD), {
        "resnet32x4_resnet8x4":    (2, 9, 9 * 8),
        "vgg13_vgg8":              (2, 15, 15 * 2),
        "wrn_40_2_wrn_40_1":       (2, 12, 12 * 2),
        "wrn_40_2_wrn_16_2":       (2, 12, 12 * 2),
        "resnet56_resnet20":       (3, 18, 18 * 2),
        "resnet110_resnet32":      (2, 15, 15 * 2),
        "resnet110_resnet20":      (2, 15, 15 * 2),
        "resnet32x4_shufflenetv2": (2, 9, 9 * 8),
        "resnet32x4_wrn_16_2":     (2, 9, 9 * 2),
        "resnet32x4_wrn_40_2":     (2, 9, 9 * 8),
        "wrn_40_2_resnet8x4":      (2, 18, 18 * 2),
        "wrn_40_2_mobilenetv2":    (2, 15, 15 * 2),
        "vgg13_mobilenetv2":       (3, 9, 9 * 2),
        "resnet50_mobilenetv2":    (2, 15, 15 * 2),
    }),
    # T in [2, 42]: bounds of the 14 logs
    "ctkd_logit_std": Row({
        CE: 0.1, f"{TAU}.loops": 10, f"{TAU}.weight_decay": 5e-4, f"{TAU}.tau_min": 2,
        f"{TAU}.tau_range": 40, EPOCHS: 240,
    }, (KD,), lines(
        (9,), "resnet32x4_resnet8x4", "vgg13_vgg8", "wrn_40_2_wrn_40_1", "wrn_40_2_wrn_16_2",
        "resnet56_resnet20", "resnet110_resnet32", "resnet110_resnet20", "resnet32x4_shufflenetv2",
        "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2", "wrn_40_2_resnet8x4", "wrn_40_2_mobilenetv2",
        "vgg13_mobilenetv2", "resnet50_mobilenetv2",
    )),
    # configs/cifar100/mlkd of Sun et al., names of their logs; those of Jin et al. have another
    # budget and rate for some
    "mlkd_logit_std": Row({CE: 0.1, TAU: 2}, (*LEVELS, LR, EPOCHS, DROPS), {
        **lines((9, 9, 9, 9, 9, 0.025, *IN_480), "resnet32x4_resnet8x4", "wrn_40_2_wrn_40_1",
                "wrn_40_2_wrn_16_2", "resnet110_resnet32", "resnet110_resnet20",
                "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2", "wrn_40_2_resnet8x4",
                "resnet56_resnet20"),
        "resnet50_mobilenetv2":    (9, 9, 9, 9, 9, 0.01, *IN_480),
        "wrn_40_2_mobilenetv2":    (9, 9, 9, 9, 9, 0.005, *IN_480),
        "vgg13_vgg8":              (6, 6, 6, 6, 6, 0.01, *IN_480),
        "resnet32x4_shufflenetv2": (6, 6, 6, 6, 6, 0.01, *IN_960),
        "vgg13_mobilenetv2":       (6, 6, 6, 6, 6, 0.01, *IN_480),
    }),
    "mlkd": Row({CE: 0.1, TAU: 4, **dict.fromkeys(LEVELS, 0.9)}, (LR, EPOCHS, DROPS), {
        **lines((0.025, *IN_480), "resnet32x4_resnet8x4", "wrn_40_2_wrn_40_1",
                "wrn_40_2_wrn_16_2", "resnet56_resnet20", "resnet110_resnet32",
                "resnet110_resnet20", "resnet32x4_wrn_16_2", "resnet32x4_wrn_40_2",
                "wrn_40_2_resnet8x4"),
        **lines((0.01, *IN_480), "vgg13_vgg8", "wrn_40_2_shufflenetv1", "vgg13_mobilenetv2",
                "resnet50_mobilenetv2"),
        "wrn_40_2_mobilenetv2": (0.005, *IN_480),
        **lines((0.01, *IN_960), "resnet32x4_shufflenetv1", "resnet32x4_shufflenetv2"),
    }),
    # Chi et al., released configs
    "normkd": Row({TAU: 2, CE: 0.1}, (KD,), lines(
        (0.9,), "resnet110_resnet32", "resnet32x4_resnet8x4", "resnet32x4_shufflenetv1",
        "resnet32x4_shufflenetv2", "resnet50_mobilenetv2", "resnet56_resnet20",
        "vgg13_mobilenetv2", "vgg13_vgg8", "wrn_40_2_shufflenetv1", "wrn_40_2_wrn_16_2",
        "wrn_40_2_wrn_40_1",
    )),
    "dkd_normkd": Row({TAU: 2, CE: 1, TCKD_RAMP: 20, NCKD_RAMP: 20}, (TCKD, NCKD), {
        "resnet110_resnet32":      (5, 4),
        "resnet32x4_resnet8x4":    (4, 5),
        "resnet32x4_shufflenetv1": (0.5, 8.5),
        "resnet32x4_shufflenetv2": (4, 5),
        "resnet50_mobilenetv2":    (2, 7),
        "resnet56_resnet20":       (7, 2),
        "vgg13_mobilenetv2":       (3, 6),
        "vgg13_vgg8":              (2, 7),
        "wrn_40_2_shufflenetv1":   (4, 5),
        "wrn_40_2_wrn_16_2":       (4, 5),
        "wrn_40_2_wrn_40_1":       (3, 6),
    }),
    # Zhang et al., released configs
    "rlkd": Row({
        CE: 0.1, KD: 0.9, LR: 0.05, FROM: 20, EVERY: 20, STAGES_FOR: 240,
        "temperature.warmup_tau": 4,
    }, (STAGES,), lines(
        ([[150, 10, 75], [210, 5, 30], [240, 2, 30]],), "resnet32x4_resnet8x4",
        "resnet32x4_shufflenetv1", "resnet32x4_shufflenetv2", "resnet56_resnet20",
        "resnet110_resnet20", "resnet110_resnet32", "vgg13_vgg8", "wrn_40_2_wrn_16_2",
        "wrn_40_2_wrn_40_1",
    )),
    "dkd_rlkd": Row({TCKD: 1, CE: 1, LR: 0.05, TCKD_RAMP: 20, FROM: 20, EVERY: 20}, (NCKD,), {
        **lines((8,), "resnet32x4_resnet8x4", "resnet32x4_shufflenetv1", "resnet32x4_shufflenetv2"),
        **lines((2,), "resnet56_resnet20", "resnet110_resnet20", "resnet110_resnet32",
                "vgg13_vgg8", "wrn_40_2_wrn_16_2", "wrn_40_2_wrn_40_1"),
    }),
    # Matsuyama et al.: command of the README; Huang et al.: released config
    "atkd": Row({CE: 0.1, "temperature.mode": "both_abs"}, (KD,), {"resnet32x4_resnet8x4": (9,)}),
    "dist": Row(
        {CE: 1, TAU: 4, BATCH: 64, EPOCHS: 240},
        ("objective.terms.inter.weight", "objective.terms.intra.weight", LR), {
            **lines((2, 2, 0.05), "resnet56_resnet20", "resnet32x4_resnet8x4", "wrn_40_2_wrn_40_1"),
            **lines((2, 2, 0.01), "resnet50_mobilenetv2", "resnet32x4_shufflenetv1",
                    "resnet32x4_shufflenetv2"),
        },
    ),
    # Jafari et al.: command of the README
    "annealing_kd": Row({CE: 1, BATCH: 128, EPOCHS: 400}, ("temperature.tau_max",),
                        {"resnet110_resnet8": (10,)}),
    # Mirzadeh et al.: paper, and the authors' answer in issue 7; assistant and student
    "takd": Row({CE: 0.85, TAU: 5, LR: 0.1, EPOCHS: 150}, (KD,), {"resnet20_resnet8": (0.15,)}),
}

RN18, MNV1 = "imagenet_resnet34_resnet18", "imagenet_resnet50_mobilenetv1"
BY_MDISTILLER = {BATCH: 512, LR: 0.2, EPOCHS: 100, DROPS: [0.3, 0.6, 0.9]}
FOR_120_EPOCHS = {LR: 0.1, EPOCHS: 120, DROPS: [0.25, 0.5, 0.75]}
BY_AGENT = {STAGES_FOR: 120, STAGES: [[30, 10, 75], [60, 5, 30], [90, 2, 30]]}
IMAGENET = {
    ("kd", RN18): {TAU: 1, CE: 0.5, KD: 0.5, **BY_MDISTILLER},
    ("kd", MNV1): {TAU: 1, CE: 0.5, KD: 0.5, **BY_MDISTILLER},
    ("kd_dot", RN18): {TAU: 1, CE: 0.5, KD: 0.5, DELTA: 0.09, **BY_MDISTILLER},
    ("kd_dot", MNV1): {TAU: 1, CE: 0.5, KD: 0.5, DELTA: 0.09, **BY_MDISTILLER},
    ("dkd", RN18): {TAU: 1, TCKD: 1, NCKD: 0.5, TCKD_RAMP: 1, NCKD_RAMP: 1, **BY_MDISTILLER},
    ("dkd", MNV1): {TAU: 1, TCKD: 1, NCKD: 2, TCKD_RAMP: 1, NCKD_RAMP: 1, **BY_MDISTILLER},
    ("normkd", RN18): {TAU: 1, CE: 0.5, KD: 0.5, **BY_MDISTILLER},
    ("normkd", MNV1): {TAU: 1, CE: 0.5, KD: 0.5, **BY_MDISTILLER},
    ("dkd_normkd", RN18): {TAU: 0.5, TCKD: 1, NCKD: 1, NCKD_RAMP: 1, CE: 1, **BY_MDISTILLER},
    ("dkd_normkd", MNV1): {TAU: 0.75, TCKD: 1, NCKD: 1, NCKD_RAMP: 1, CE: 1, **BY_MDISTILLER},
    ("ctkd", RN18): {CE: 1, KD: 1, LOOPS: 5, DECAY: 1e-4, BATCH: 256, **FOR_120_EPOCHS},
    ("ctkd_logit_std", RN18): {
        CE: 1, KD: 2, f"{TAU}.loops": 5, f"{TAU}.weight_decay": 1e-4, f"{TAU}.tau_min": 1,
        f"{TAU}.tau_range": 20, BATCH: 256, **FOR_120_EPOCHS,
    },
    ("dkd_ctkd", RN18): {
        CE: 1, TCKD: 1, NCKD: 1, "objective.terms.nckd.ramp": None, LOOPS: 5, DECAY: 1e-4,
        BATCH: 256, **FOR_120_EPOCHS,
    },
    ("logit_std", RN18): {TAU: 2, CE: 1, KD: 9, **BY_MDISTILLER},
    ("dkd_logit_std", RN18): {
        TAU: 2, CE: 1, TCKD: 9 * 1, NCKD: 9 * 0.5, TCKD_RAMP: 1, NCKD_RAMP: 1, **BY_MDISTILLER,
    },
    ("wttm", RN18): {EXPONENT: 0.8, KD: 1.6, CE: 1, BATCH: 256, LR: 0.1, EPOCHS: 100},
    ("wttm", MNV1): {EXPONENT: 0.7, KD: 3.5, CE: 1, BATCH: 256, LR: 0.1, EPOCHS: 100},
    ("dist", RN18): {
        TAU: 1, "objective.terms.inter.weight": 2, "objective.terms.intra.weight": 2, CE: 1,
        BATCH: 256, LR: 0.1, EPOCHS: 100,
    },
    **{("nkd", pair): {
        TAU: 1, "objective.terms.nkd_non_target.weight": 1.5, CE: 1, BATCH: 8 * 32, LR: 0.1,
        "optim.optimizer.weight_decay": 1e-4, EPOCHS: 100, DROPS: [0.3, 0.6, 0.9],
    } for pair in (RN18, MNV1)},
    ("rlkd", RN18): {CE: 1, KD: 1, BATCH: 512, **BY_AGENT, **FOR_120_EPOCHS},
    ("dkd_rlkd", RN18): {
        CE: 1, TCKD: 1, NCKD: 1, NCKD_RAMP: 1, FROM: 1, EVERY: 5, BATCH: 256, **BY_AGENT,
        **FOR_120_EPOCHS,
    },
    **{("mlkd", pair): {
        TAU: 1, CE: 0.5, "objective.ce_views.strong": 0.5, **dict.fromkeys(LEVELS, 0.5),
        BATCH: 512, LR: lr, EPOCHS: 100, DROPS: [0.3, 0.6, 0.9],
    } for pair, lr in ((RN18, 0.1), (MNV1, 0.2))},
    ("scratch", RN18): {CE: 1, **BY_MDISTILLER},
    ("scratch", MNV1): {CE: 1, **BY_MDISTILLER},
}
# fmt: on

PUBLISHED = IMAGENET | {
    (method, pair): row.always | dict(zip(row.columns, values, strict=True))
    for method, row in CIFAR.items()
    for pair, values in row.cells.items()
}


# Ours: what others do nearby, where nobody published a setting.
OURS = {
    ("ctkd", MNV1): {CE: 1, KD: 1, LOOPS: 5, DECAY: 1e-4, BATCH: 256, **FOR_120_EPOCHS},
    **{
        ("mlkd_logit_std", pair): {LR: 0.01, **dict.fromkeys(LEVELS, 9)}
        for pair in ("resnet32x4_shufflenetv1", "wrn_40_2_shufflenetv1")
    },
    **{
        ("mlkd_atkd", pair): {CE: 0.1, LR: lr, EPOCHS: epochs, **dict.fromkeys(LEVELS, 9)}
        for pair, lr, epochs in (
            ("resnet32x4_resnet8x4", 0.025, 480),
            ("vgg13_vgg8", 0.01, 480),
            ("wrn_40_2_shufflenetv1", 0.01, 480),
            ("vgg13_mobilenetv2", 0.01, 480),
            ("resnet50_mobilenetv2", 0.01, 480),
            ("wrn_40_2_mobilenetv2", 0.005, 480),
            ("resnet32x4_shufflenetv1", 0.01, 960),
            ("resnet32x4_shufflenetv2", 0.01, 960),
        )
    },
    ("dkd_atkd", "resnet32x4_resnet8x4"): {TCKD: 1, CE: 1, TCKD_RAMP: 20, NCKD: 8},
    ("cskd", "resnet32x4_resnet8x4"): {
        CE: 1,
        "temperature.low": 2,
        "temperature.high": 6,
        "objective.terms.cskd.weight": 2,
        "objective.terms.cskd_constant.weight": 2,
        "objective.terms.cskd_constant.strategy.tau": 4,
    },
}
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
LISTED = {
    (method, pair): setting
    for method in METHODS
    for pairs in read_settings(CONF, method).values()
    for pair, setting in pairs.items()
}
TUNED = {cell for cell, setting in LISTED.items() if setting.values}


def cells():
    """Every cell; what a method has in common for several pairs is left to the long tests."""
    seen: list = []
    for (method, pair), values in (PUBLISHED | OURS).items():
        again = (method, values) in seen and (method, pair) not in TUNED
        seen.append((method, values))
        yield pytest.param(method, pair, marks=[pytest.mark.slow] if again else [])


def compose_cell(method, pair):
    dataset = [] if pair.startswith("imagenet_") else ["dataset=cifar100"]
    return compose_config([*dataset, f"pair={pair}", f"method={method}"])


@pytest.mark.parametrize(("method", "pair"), list(cells()))
def test_a_cell_is_what_it_should_be_and_passes_the_checks(method, pair):
    cfg = compose_cell(method, pair)
    published = (PUBLISHED | OURS)[method, pair]
    assert {key: OmegaConf.select(cfg, key) for key in published} == published
    cfg.student.arch = cfg.teacher.model.arch = "resnet8"  # others are built in test_conf
    assert find_problems(cfg) == []


def test_every_pair_with_values_of_its_own_is_in_this_list():
    assert (PUBLISHED | OURS).keys() >= TUNED


def test_a_method_lists_the_pairs_for_which_its_setting_is_published():
    assert {cell for cell, setting in LISTED.items() if setting.is_published} == PUBLISHED.keys()


@pytest.mark.parametrize("method", ["mlkd", "mlkd_logit_std", "mlkd_atkd"])
def test_mlkd_has_twice_the_epochs_of_a_dataset_and_its_table_follows(method):
    assert compose_config([f"method={method}"]).run.epochs == 2 * 6  # mnist5k
    assert compose_config(["dataset=cifar100", f"method={method}"]).run.epochs == 480
    table = ["table=mlkd_cifar100", f"method={method}"]
    assert compose_config([*table, "pair=vgg13_vgg8"]).run.epochs == 480
    assert compose_config([*table, "pair=resnet32x4_shufflenetv2"]).run.epochs == 960


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_with_a_published_pair(method):
    assert find_problems(compose_cell(method, "resnet56_resnet20")) == []
