"""A run of the point on a plane, for studies of the arm's kind on a robot whose instruction matters.

    python -m studies.robot.point RUN [--quick]

The scene has two discs, and only the instruction says which. RUN gets what a `pizero demo` leaves: `dataset`,
and `training` with the policy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pizero.data.lerobot import LeRobotDataset
from pizero.data.text import ByteTokenizer
from pizero.models.pi0 import Pi0Config
from pizero.nn.gemma import GemmaConfig
from pizero.nn.paligemma import PaliGemmaConfig
from pizero.nn.vision import ResNetConfig
from pizero.robots import NAVIGATION2D
from pizero.training.config import TrainConfig
from pizero.training.loop import train
from pizero.training.optimizer import OptimizerConfig
from pizero.training.sources import open_sources
from studies.representations import walks

GEMMA = GemmaConfig(width=64, depth=2, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16)


def config_of(num_steps: int) -> TrainConfig:
    """Return a recipe that takes about 30 ms a step on one core: a π0 of 0.3 million parameters."""
    vision = ResNetConfig(
        image_size=32, stem_stride=2, widths=(16, 32), blocks=(1, 1), strides=(1, 1), num_tokens=4
    )
    backbone = PaliGemmaConfig(vision=vision, language=GEMMA, vocab_size=ByteTokenizer.vocab_size)
    model = Pi0Config(
        backbone=backbone,
        expert=GEMMA,
        state_dim=NAVIGATION2D.state_dim,
        action_dim=NAVIGATION2D.action_dim,
        horizon=4,
        num_draws=2,
    )
    optimizer = OptimizerConfig(
        peak_rate=3e-3, final_rate=1e-5, warmup_steps=20, decay_steps=num_steps, weight_decay=1e-4
    )
    return TrainConfig(
        model=model,
        embodiments=(NAVIGATION2D.name,),
        image_size=32,
        max_tokens=24,
        action_form="displacement",
        optimizer=optimizer,
        num_steps=num_steps,
        batch_size=32,
        ema_decay=0.98,
        held_out=0.1,
        validate_every=num_steps,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--quick", action="store_true", help="20 walks and 10 steps")
    given = parser.parse_args(argv)
    walks(given.run / "dataset", 20 if given.quick else 300)
    config = config_of(10 if given.quick else 1_500)
    training = given.run / "training"
    dataset = LeRobotDataset.open(given.run / "dataset")
    train(config, open_sources(config, [dataset], tokenizers=training / "tokenizers"), training)


if __name__ == "__main__":
    main()
