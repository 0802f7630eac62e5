"""Train a pool: ``python -m specrouter_dist.align DATA OUT --init-from POOL``."""

from __future__ import annotations

import argparse
from pathlib import Path

from specrouter_dist.align.config import STAGES, PoolTrainingConfig
from specrouter_dist.align.pool_training import train_pool


def main() -> None:
    """Train a pool and print the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m specrouter_dist.align", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("out", type=Path, help="pool folder to write; an interrupted run resumes")
    parser.add_argument("--stages", nargs="+", choices=STAGES)
    parser.add_argument("--init-from", type=Path, help="pool whose target is the starting point")
    parser.add_argument("--config", type=Path, help="a PoolTrainingConfig as JSON")
    arguments = parser.parse_args()
    written = "{}" if arguments.config is None else arguments.config.read_text(encoding="utf-8")
    values = PoolTrainingConfig.model_validate_json(written).model_dump()
    if arguments.stages:
        values["stages"] = tuple(arguments.stages)
    if arguments.init_from:
        values["init_from"] = arguments.init_from
    report = train_pool(PoolTrainingConfig.model_validate(values), arguments.data, arguments.out)
    print(report.model_dump_json(indent=2))


if __name__ == "__main__":
    main()
