"""A model small enough to check by hand, with the contract of every trainable model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.config import OptimizerConfig
from bertsmith.train.loop import Run
from bertsmith.train.optimizer import adamw


class Toy(nn.Module):
    """Classifies rows of four numbers into three classes, and regresses their sum."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.classes = nn.Linear(8, 3)
        self.total = nn.Linear(8, 1)
        self.dropout = dropout

    def forward(self, rows: Tensor, labels: Tensor, sums: Tensor) -> dict[str, Tensor]:
        states = F.dropout(self.norm(self.hidden(rows).tanh()), self.dropout, self.training)
        logits = self.classes(states)
        known = labels >= 0  # -1: this row has a sum but no class
        return {
            "class_loss": F.cross_entropy(logits[known], labels[known], reduction="sum"),
            "sum_loss": (self.total(states).squeeze(1) - sums).square().sum(),
            "accuracy": (logits.argmax(1) == labels)[known].sum(),
        }

    def counts(self, rows: Tensor, labels: Tensor, sums: Tensor) -> Mapping[str, int]:
        known = int((labels >= 0).sum())
        return {"class_loss": known, "sum_loss": len(sums), "accuracy": known}


def toy_batch(rows: int, seed: int = 0, unlabelled: int = 0) -> dict[str, Tensor]:
    """Returns rows whose class is the place of the largest of the first three numbers."""
    numbers = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    labels = numbers[:, :3].argmax(1)
    labels[:unlabelled] = -1
    return {"rows": numbers, "labels": labels, "sums": numbers.sum(1)}


def cut(batch: Mapping[str, Tensor], *borders: int) -> list[dict[str, Tensor]]:
    """Returns the batch in parts that begin at 0 and at each border."""
    edges = [0, *borders, len(batch["labels"])]
    return [
        {name: tensor[start:end] for name, tensor in batch.items()}
        for start, end in zip(edges[:-1], edges[1:], strict=True)
    ]


def toy_run(model: Toy) -> Run:
    """Returns a run of `model` whose optimizer has moved once, so that its state is not zero."""
    run = Run(model, adamw(model, OptimizerConfig(learning_rate=0.1)))
    sums = model(**toy_batch(5))
    (sums["class_loss"] + sums["sum_loss"]).backward()
    run.optimizer.step()
    run.optimizer.zero_grad()
    return run
