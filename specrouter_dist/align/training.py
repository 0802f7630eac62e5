"""The parts every training loop shares: learning rate, checkpoints, the log of losses."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from specrouter_dist.align.config import OptimizerConfig
from specrouter_dist.errors import ConfigError

BatchT = TypeVar("BatchT")


@dataclass
class Progress:
    """How far a run has come; saved with its weights."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches taken from the present epoch
    tokens: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    stale: int = 0  # evaluations since the best one

    def share(self, config: OptimizerConfig) -> float:
        """Share of the run that lies behind, by steps or by time, whichever is further."""
        by_time = 0.0 if config.minutes is None else self.seconds / (60 * config.minutes)
        return min(1.0, max(self.step / config.steps, by_time))


def learning_rate(config: OptimizerConfig, progress: Progress) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (progress.step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress.share(config)))


class TrainingLog:
    """One JSON object a line: step, loss, learning rate, tokens, seconds, dev score."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **values: float | str) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


@dataclass(frozen=True)
class TrainingTask(Generic[BatchT]):
    """What makes one run different from another.

    ``batches(epoch)`` must be the same for the same epoch; no other randomness exists, so that a
    resumed run repeats an uninterrupted one.
    """

    batches: Callable[[int], Iterator[BatchT]]
    loss: Callable[[BatchT, float, int], tuple[Tensor, int]]
    """(batch, share of the run behind, step) to (loss, tokens seen)."""
    score: Callable[[], float]
    """Dev score; higher is better."""


class Trainer(Generic[BatchT]):
    """Minimises a task's loss over the parameters that require a gradient; can be killed at any
    time and started again."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        task: TrainingTask[BatchT],
        config: OptimizerConfig,
        folder: Path,
        name: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._model, self._task, self._config, self._name = model, task, config, name
        self._checkpoint = folder / f"{name}.pt"
        self._log = TrainingLog(folder / f"{name}.jsonl")
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.progress = Progress()
        if self._checkpoint.exists():
            self._restore()

    def run(
        self, patience: int | None = None, on_score: Callable[[Progress], None] | None = None
    ) -> Progress:
        """Train to the end, or until ``patience`` evaluations in a row bring nothing better.

        A run that had come so far trains no further step. ``on_score`` is called before the
        checkpoint that knows of the score: what it keeps of the best one is there for whoever goes
        on from that checkpoint.
        """
        if self._is_over(patience):
            return self.progress
        self._model.train()
        with tqdm(
            total=self._config.steps, initial=self.progress.step, desc=self._name, unit="step"
        ) as bar:
            for batch in self._remaining():
                began = time.monotonic()
                loss = self._step(batch)
                self.progress.seconds += time.monotonic() - began
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", best=f"{self.progress.best:.4f}")
                done = self.progress.share(self._config) >= 1.0
                if self.progress.step % self._config.checkpoint_every == 0 or done:
                    self._evaluate(loss)
                    if on_score is not None:
                        on_score(self.progress)
                    self._save()
                if self._is_over(patience):
                    break
        return self.progress

    def _is_over(self, patience: int | None) -> bool:
        is_stale = patience is not None and self.progress.stale >= patience
        return is_stale or self.progress.share(self._config) >= 1.0

    def _remaining(self) -> Iterator[BatchT]:
        while True:
            skip = self.progress.batch
            for number, batch in enumerate(self._task.batches(self.progress.epoch)):
                if number >= skip:
                    self.progress.batch = number + 1
                    yield batch
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _step(self, batch: BatchT) -> float:
        rate = learning_rate(self._config, self.progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, tokens = self._task.loss(batch, self.progress.share(self._config), self.progress.step)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained.values(), self._config.clip_norm)
        self._optimizer.step()
        self.progress.step += 1
        self.progress.tokens += tokens
        value = float(loss.detach())
        self._log.write(step=self.progress.step, loss=round(value, 5), learning_rate=rate)
        return value

    def _evaluate(self, loss: float) -> None:
        self._model.eval()
        score = self._task.score()
        self._model.train()
        self.progress.stale = 0 if score > self.progress.best else self.progress.stale + 1
        self.progress.best = max(score, self.progress.best)
        now = self.progress
        self._log.write(step=now.step, dev=score, tokens=now.tokens, seconds=round(now.seconds, 1))

    def _save(self) -> None:
        partial = self._checkpoint.with_suffix(".partial")
        state = {
            "model": {name: parameter.detach() for name, parameter in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        torch.save(state, partial)
        os.replace(partial, self._checkpoint)

    def _restore(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        saved = state["model"]
        unlike = saved.keys() - self._model.state_dict().keys()
        unlike |= {
            n for n, p in self._trained.items() if n not in saved or saved[n].shape != p.shape
        }
        if unlike:
            raise ConfigError(
                f"{self._checkpoint}: is of a run with other settings, {min(unlike)!r} is not what "
                "is trained now; go on with those settings, or elsewhere"
            )
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(saved[name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
