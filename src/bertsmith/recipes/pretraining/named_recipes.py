"""What `--recipe` stands for: the settings of each recipe, one line a choice, with its reason.

A recipe is a table of defaults: it fills in what was not set by a flag or in a settings file.
`docs/decisions/modern-recipe.md` has the experiments that our numbers come from, and says which
choices were taken over from others unmeasured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bertsmith.config import PretrainConfig, bert_of_size

Table = dict[str, Any]

_PUBLISHED_RATE = 1e-4  # for a width of 768


def paper(width: int) -> Table:
    """Returns what the paper's recipe sets otherwise than the settings' own defaults.

    Source: Devlin et al. 2019, appendix A.2; for the rest `docs/results.md`.
    """
    return {
        # Narrower encoders take a larger rate than the published one, up to three times as large:
        # at 2e-3 without bias correction one of width 128 fell back to the unigram model.
        "learning_rate": min(_PUBLISHED_RATE * max(1.0, 768 / width), 3 * _PUBLISHED_RATE),
        "warmup": 0.1,  # a tenth of the run; in the published million steps it is a hundredth
        "bias_correction": False,  # as in the published code
    }


def modern(width: int) -> Table:
    """Returns the settings of our own recipe, for what a small budget is best spent on.

    Source: `docs/decisions/modern-recipe.md`; Warner et al. 2024 (ModernBERT) for the encoder,
    Geiping and Goldstein 2023 (cramming) for what to leave out, Jordan et al. 2024 for Muon.
    """
    return {
        "architecture": "modern",  # with norms before the sums the plateau is left sooner
        "initialization": "silent",  # blocks begin to add what they have learnt, not noise
        "dropout": 0.0,  # no text is seen often enough to be learnt by heart
        "sentence_task": "none",  # what is learnt from pairs does not help with pieces
        "layout": "packed",  # every sequence is full, and holds one document
        "masked_lm_prob": 0.4,  # more is learnt of each piece that is read
        "final_masked_lm_prob": None,  # to the end
        "long_sequence_share": 0.0,  # places are told by angles: no phase is needed to learn them
        "first_tokens_per_batch": None,  # batches do not grow
        "optimizer": "muon",  # more is learnt from each piece, for a little more time a step
        "muon_learning_rate": 0.02,  # of the published code, at every width
        "learning_rate": min(1e-3, 1e-3 * (768 / width) ** 0.5),  # piece vectors, heads and norms
        "bias_correction": True,  # the first steps are as long as the others
        "schedule": "flat",  # the rate stays at its peak for as long as can be
        "warmup": 0.02,  # silent blocks need little
        "decay_share": 0.5,  # and falls to zero in the second half
    }


RECIPES: Mapping[str, Callable[[int], Table]] = {"paper": paper, "modern": modern}


def recipe_of(values: Mapping[str, Any], where: str) -> Table:
    """Returns the choices of the recipe that settings name, for an encoder of their size.

    Args:
        values: the settings that were given.
        where: they were given, for messages.

    Raises:
        ConfigError: there is no such recipe or size.
    """
    named = {name: values[name] for name in ("recipe", "size") if name in values}
    config = PretrainConfig.from_mapping(named, where=where)
    return RECIPES[config.recipe](bert_of_size(config.size).hidden_size)
