# SPDX-License-Identifier: Apache-2.0
"""The layers that offset branches are made of, which start as the papers say whoever resets their parameters.

`reset_parameters()` on every module of a model is how models are initialised anew, or after `to_empty` from the meta
device: PyTorch's own layers would then start an offset branch at random.
"""

from __future__ import annotations

from torch import nn

HIDDEN_DEVIATION = 0.01  # of the normal distribution that hidden layers start from


class OffsetConv2d(nn.Conv2d):
    """A convolution that predicts offsets: `torch.nn.Conv2d` which starts at zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class OffsetLinear(nn.Linear):
    """A fully connected layer that predicts offsets: `torch.nn.Linear` which starts at zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class HiddenLinear(nn.Linear):
    """A fully connected layer before that one, which starts with N(0, 0.01^2) and a bias of zero."""

    def reset_parameters(self) -> None:
        """Draw the weight and set the bias to zero."""
        nn.init.normal_(self.weight, std=HIDDEN_DEVIATION)
        nn.init.zeros_(self.bias)
