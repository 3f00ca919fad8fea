"""How much of what the machine can do goes into training: the share of its peak that is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bertsmith.config import ExamplesConfig
from bertsmith.model.accounting import flops_per_token
from bertsmith.model.kinds import PretrainingModel
from bertsmith.model.peak import peak_flops


def measured_flop_share(
    model: PretrainingModel,
    phases: Sequence[ExamplesConfig],
    phase: Callable[[], int],
    say: Callable[[str], None],
    *,
    num_devices: int = 1,
) -> Callable[[float], float]:
    """Measures the peak of the model's device; returns what turns tokens a second into its share.

    Only what the formula counts is counted: matrix products that real tokens need, forward and
    backward, each token reading a sequence of the phase's full length. So it is the model's own
    use of the machine (MFU), whatever else the machine was busy with.

    Args:
        model: that is trained.
        phases: the examples of each phase of the run.
        phase: returns the number of the present one.
        say: told the peak.
        num_devices: as many ranks share the work, each with such a device.

    Source: Chowdhery et al. 2022 (PaLM), appendix B, on the model FLOPs utilisation.
    """
    peak = peak_flops(next(model.parameters()).device)
    say(f"the fastest matrix product here reaches {peak / 1e9:,.0f} GFLOP/s")
    costs = [
        flops_per_token(
            model, sequence_length=one.sequence_length, masked_share=one.masked_lm_prob
        )["training"]
        for one in phases
    ]
    return lambda tokens_per_second: costs[phase()] * tokens_per_second / (peak * num_devices)
