"""A CRF's loss, best paths and marginals are those of all paths of tags, counted one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertsmith.model.crf import Crf


def random_crf(num_labels: int, seed: int, size: float = 3.0) -> Crf:
    generator = torch.Generator().manual_seed(seed)
    crf = Crf(num_labels).double()
    with torch.no_grad():
        for part in crf.parameters():
            part.copy_(size * torch.randn(part.shape, generator=generator, dtype=torch.float64))
    return crf


def random_words(crf: Crf, lengths: Sequence[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scores, [M, C], right tags, [M], and lengths, [S], of some sentences."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), len(crf.first))
    emissions = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, shape[1], shape[:1], generator=generator)
    return emissions, labels, torch.tensor(lengths)


@torch.no_grad()
def scored_paths(crf: Crf, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """Returns the score of every path of one sentence, by Lample et al. 2016, section 2.2."""
    found = {}
    for path in itertools.product(range(emissions.shape[1]), repeat=len(emissions)):
        score = float(crf.first[path[0]] + crf.last[path[-1]])
        score += sum(float(emissions[word, tag]) for word, tag in enumerate(path))
        score += sum(float(crf.transitions[i, j]) for i, j in itertools.pairwise(path))
        found[path] = score
    return found


shapes = st.tuples(
    st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 10**6)
)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_loss_paths_and_marginals_are_those_of_all_paths(shape: tuple[int, list[int], int]) -> None:
    num_labels, sizes, seed = shape
    crf = random_crf(num_labels, seed)
    emissions, labels, lengths = random_words(crf, sizes, seed + 1)
    chain = crf.chain()
    loss, num_right = 0.0, 0
    for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        if not size:
            continue
        part = slice(end - size, end)
        paths = scored_paths(crf, emissions[part])
        total = torch.tensor(list(paths.values()), dtype=torch.float64).logsumexp(0)
        loss += float(total) - paths[tuple(labels[part].tolist())]
        best = max(paths, key=lambda path: paths[path])
        assert chain.best_path(emissions[part].numpy()).tolist() == list(best)
        num_right += sum(
            one == other for one, other in zip(best, labels[part].tolist(), strict=True)
        )
        shares = torch.zeros_like(emissions[part])
        for path, score in paths.items():
            shares[torch.arange(size), torch.tensor(path)] += (score - total).exp()
        found = chain.marginals(emissions[part].numpy())
        torch.testing.assert_close(torch.from_numpy(found), shares, rtol=0, atol=1e-10)
    assert crf.num_right(emissions, labels, lengths).item() == num_right
    assert crf.loss(emissions, labels, lengths).item() == pytest.approx(loss, abs=1e-9)


def test_marginals_are_the_derivative_of_the_sum_over_paths() -> None:
    """A law by which the forward pass alone tells what the backward one must give."""
    crf = random_crf(7, 0)
    emissions, labels, lengths = random_words(crf, [30, 1, 12], 1)
    emissions.requires_grad_()
    (slope,) = torch.autograd.grad(crf.loss(emissions, labels, lengths), emissions)
    expected = slope + torch.nn.functional.one_hot(labels, 7)
    chain = crf.chain()
    parts = [
        torch.from_numpy(chain.marginals(part.detach().numpy()))
        for part in emissions.split([30, 1, 12])
    ]
    torch.testing.assert_close(torch.cat(parts), expected)


def test_a_batch_is_as_its_sentences_one_by_one() -> None:
    crf = random_crf(5, 2)
    sizes = [4, 9, 1, 0, 6]
    emissions, labels, lengths = random_words(crf, sizes, 3)
    parts = list(zip(emissions.split(sizes), labels.split(sizes), lengths.split(1), strict=True))
    alone = sum(crf.loss(*part).item() for part in parts)
    assert crf.loss(emissions, labels, lengths).item() == pytest.approx(alone)
    right = sum(crf.num_right(*part).item() for part in parts)
    assert crf.num_right(emissions, labels, lengths).item() == right


def test_a_new_crf_is_as_if_there_were_none() -> None:
    crf = Crf(4).double()
    emissions, labels, lengths = random_words(crf, [3, 8], 4)
    expected = torch.nn.functional.cross_entropy(emissions, labels, reduction="sum")
    torch.testing.assert_close(crf.loss(emissions, labels, lengths), expected)
    scores = emissions[:3].numpy()
    assert crf.chain().best_path(scores).tolist() == scores.argmax(1).tolist()
    np.testing.assert_allclose(crf.chain().marginals(scores), emissions[:3].softmax(1), rtol=1e-12)


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_loss_and_gradients_are_finite_in_single_precision(size: float) -> None:
    crf = random_crf(6, 5).float()
    emissions, labels, lengths = random_words(crf, [40, 2, 11], 6)
    scores = (size * emissions).float().requires_grad_()
    loss = crf.loss(scores, labels, lengths)
    loss.backward()
    assert loss.isfinite() and loss > 0
    for part in (scores, *crf.parameters()):
        assert part.grad is not None and part.grad.isfinite().all() and part.grad.any()
    shares = crf.chain().marginals(scores[:40].detach().double().numpy())
    assert np.isfinite(shares).all()


def test_long_sentences_lose_no_precision() -> None:
    crf = random_crf(6, 7, size=1.0)
    emissions, labels, lengths = random_words(crf, [500, 400], 8)
    expected = crf.loss(emissions, labels, lengths).item()
    found = crf.float().loss(emissions.float(), labels, lengths).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_words_have_no_loss_and_no_tags() -> None:
    crf = random_crf(3, 9)
    emissions, labels, lengths = random_words(crf, [0, 0], 10)
    assert crf.loss(emissions, labels, lengths).item() == 0
    assert crf.num_right(emissions, labels, lengths).item() == 0
    assert crf.chain().best_path(emissions.numpy()).shape == (0,)
    assert crf.chain().marginals(emissions.numpy()).shape == (0, 3)
