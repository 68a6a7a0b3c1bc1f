# SPDX-License-Identifier: Apache-2.0
"""Conversion with bounded offsets."""

from __future__ import annotations

import pytest
import torch

from helpers.networks import Case, Twins, build, deformable, image
from pliant._check import PliantError
from pliant.surgery import convert


@torch.no_grad()
def test_converted_layers_can_have_a_limit_and_start_with_the_same_output() -> None:
    model, picture = build(Case("own", Twins, ".", 4), torch.float64), image(torch.float64)
    before = model(picture)
    layers = deformable(convert(model, "left|tied", offset_limit=3.0))
    assert layers and all(layer.offset_limit == 3.0 for layer in layers)
    torch.testing.assert_close(model(picture), before)
    with pytest.raises(PliantError, match="offset_limit=3.0; got modulated=True, offset_groups=1, mask_scale=2.0; "):
        convert(model, "left|tied")
