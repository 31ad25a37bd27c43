"""What a user can choose about how a scan is segmented."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What is done beside the network.

    Attributes:
        largest_component: keep the largest piece of every label, which an organ is, and of compact ones no more than
            up to necks; switch it off for what comes in several pieces, such as lesions or vessels.
        fill_holes: give holes that a label encloses to it.
        flips: also segment the scan flipped left to right, front to back and both, and take the mean of the four
            logits; four times the work, and only for a model that was trained on flipped slices.
        uncertainty: measure how unsure the network is of every label.
    """

    largest_component: bool = True
    fill_holes: bool = True
    flips: bool = False
    uncertainty: bool = False
