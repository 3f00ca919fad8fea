"""A linear-chain conditional random field: scores of tags that follow each other.

Training is on many sentences at once, which stand end to end, a word of each after the other. Tags
are told one sentence at a time and in float64, by numpy: on vectors of so few numbers torch takes
eight times as long. All sums over paths are taken in log space.

Shapes:  M words, of all sentences or of one   S sentences   L words of the longest   C tags
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Scores = NDArray[np.float64]
_LEAST = np.finfo(np.float64).tiny


class Crf(nn.Module):
    """Gives every path of tags the sum of its words' own scores and those of its neighbours.

    It begins with zeros, as if there were none, so that nothing is drawn. Steps that a scheme does
    not have, as from O to I-X, are not forbidden but learnt: words without a piece are not in the
    chain, so that a right path may well take such a step, and plain tags have no scheme.

    Source: Lafferty et al. 2001; Lample et al. 2016, section 2.2, whose start and end tags are
    the vectors `first` and `last` here. The layout is that of the package pytorch-crf.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))  # [C, C] from, to
        self.first = nn.Parameter(torch.zeros(num_labels))  # [C]
        self.last = nn.Parameter(torch.zeros(num_labels))  # [C]

    def loss(self, emissions: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Returns the negative log-likelihood of the right paths, summed over sentences. []

        Args:
            emissions: score of each tag for each word, sentences end to end. [M, C]
            labels: the right tags. int64 [M]
            lengths: words of each sentence, which may be none. int64 [S]
        """
        if not len(emissions):
            return emissions.sum()  # of no path
        with torch.autocast(emissions.device.type, enabled=False):
            emissions = emissions.to(self.first.dtype)
            padded, used = _padded(emissions, lengths)
            ends = self._ahead(padded, used)[-1] + self.last  # [S, C]
            return ends.logsumexp(1).sum() - self._scores(emissions, labels, used)

    @torch.no_grad()
    def num_right(self, emissions: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Returns how many tags of the likeliest paths are right; see `loss`. int64 []"""
        chain, parts = self.chain(), emissions.double().cpu().split(lengths.tolist())
        paths = [torch.from_numpy(chain.best_path(part.numpy())) for part in parts]
        return (torch.cat(paths).to(labels.device) == labels).sum()

    def chain(self) -> Chain:
        """Returns what tells the tags of a sentence, with the scores as they are now."""
        parts = (self.transitions, self.first, self.last)
        return Chain(*(part.detach().double().cpu().numpy() for part in parts))

    def _ahead(self, padded: Tensor, used: Tensor) -> list[Tensor]:
        """Returns for each word the log of the sum over the paths up to it, by its tag. L [S, C]

        Behind the end of a sentence it stays that of its last word.
        """
        forwards = _Steps(self.transitions)
        found = [self.first + padded[:, 0]]  # [S, C]
        for word in range(1, padded.shape[1]):
            sums = forwards.take(found[-1]) + padded[:, word]  # [S, C]
            found.append(torch.where(used[:, word, None], sums, found[-1]))
        return found

    def _scores(self, emissions: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Returns the score of the right path, summed over sentences. []"""
        ends = used.sum(1).cumsum(0)  # [S]
        starts = ends - used.sum(1)  # [S]
        goes_on = torch.ones_like(labels, dtype=torch.bool)  # [M]
        goes_on[starts] = False
        steps = self.transitions[labels[:-1], labels[1:]]  # [M - 1]
        return (
            emissions.gather(1, labels[:, None]).sum()
            + steps[goes_on[1:]].sum()
            + self.first[labels[starts]].sum()
            + self.last[labels[ends - 1]].sum()
        )


class Chain:
    """The likeliest tags of a sentence, and how likely each tag of each word is."""

    def __init__(self, transitions: Scores, first: Scores, last: Scores) -> None:
        """Takes the scores of a CRF: [C, C], from row to column, [C] and [C]; none is infinite."""
        self._into = np.ascontiguousarray(transitions.T)  # [C, C] to, from
        self._first, self._last = first.copy(), last.copy()
        self._tops = transitions.max(0), transitions.max(1)  # [C] each: into a tag, out of it
        self._shares = (  # [C, C] each
            np.exp(transitions - self._tops[0]),
            np.exp(transitions.T - self._tops[1]),
        )

    def best_path(self, emissions: Scores) -> NDArray[np.int64]:
        """Returns the tags of the likeliest path. [M, C] -> [M]

        Source: Viterbi 1967; Rabiner 1989, section III.B.
        """
        path = np.zeros(len(emissions), np.int64)  # [M]
        if not len(emissions):
            return path
        came_from = np.empty(emissions.shape, np.int64)  # [M, C]
        tags = np.arange(emissions.shape[1])  # [C]
        best = self._first + emissions[0]  # [C]
        for word in range(1, len(emissions)):
            scores = self._into + best  # [C, C]
            came_from[word] = sources = scores.argmax(1)
            best = scores[tags, sources] + emissions[word]  # [C]
        path[-1] = (best + self._last).argmax()
        for word in range(len(emissions) - 1, 0, -1):
            path[word - 1] = came_from[word, path[word]]
        return path

    def marginals(self, emissions: Scores) -> Scores:
        """Returns the probability of each tag of each word: that of all paths through it. [M, C]

        Source: the forward-backward algorithm of Baum; Rabiner 1989, section III.A and equation 27.
        """
        if not len(emissions):
            return emissions
        ahead, behind = np.empty_like(emissions), np.empty_like(emissions)  # [M, C] each
        ahead[0], behind[-1] = self._first + emissions[0], self._last
        for word in range(1, len(emissions)):
            ahead[word] = self._summed(ahead[word - 1], 0) + emissions[word]
            behind[-word - 1] = self._summed(behind[-word] + emissions[-word], 1)
        found = ahead + behind  # [M, C]
        shares = np.exp(found - found.max(1, keepdims=True))  # [M, C]
        return shares / shares.sum(1, keepdims=True)

    def _summed(self, scores: Scores, direction: int) -> Scores:
        """Returns log sum_i exp(scores[i] + transition between i and j); see `_Steps`. [C]"""
        highest = scores.max()
        sums = np.exp(scores - highest) @ self._shares[direction]  # [C]
        return np.log(np.maximum(sums, _LEAST)) + highest + self._tops[direction]


class _Steps:
    """A step along the chain: the log of a sum of exponentials, as one product of matrices.

    The greatest score and the greatest transition into each tag are taken out before, so that
    nothing overflows. What is left of the greatest path cannot vanish unless transitions into one
    tag are 80 apart, which no training makes them; it is kept above zero all the same, so that no
    logarithm is infinite. It takes memory for [S, C] and not [S, C, C], which for a hundred tags is
    a hundred times less.
    """

    def __init__(self, transitions: Tensor) -> None:
        self._tops = transitions.detach().amax(0)  # [C]
        self._shares = (transitions - self._tops).exp()  # [C, C]
        self._least = torch.finfo(transitions.dtype).tiny

    def take(self, scores: Tensor) -> Tensor:
        """Returns log sum_i exp(scores[i] + transitions[i, j]). [S, C] -> [S, C]"""
        highest = scores.detach().amax(1, keepdim=True)  # [S, 1]
        sums = (scores - highest).exp() @ self._shares  # [S, C]
        return sums.clamp_min(self._least).log() + highest + self._tops  # [S, C]


def _padded(emissions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the words of each sentence that has some in a row, and which places are words.

    Shapes: [M, C], int64 [S] -> [S, L, C], bool [S, L]
    """
    lengths = lengths[lengths > 0]
    places = torch.arange(int(lengths.max()), device=emissions.device)  # [L]
    used = places < lengths[:, None]  # [S, L]
    padded = emissions.new_zeros(*used.shape, emissions.shape[1])  # [S, L, C]
    padded[used] = emissions
    return padded, used
