# SPDX-License-Identifier: Apache-2.0
"""Where deformable layers sample: recorded, measured and drawn."""

from __future__ import annotations

from pliant.analysis.bins import RegionBins, record_bins
from pliant.analysis.draw import draw_boxes, draw_curves, draw_sampling
from pliant.analysis.draw_labels import draw_labels, draw_ranking, label_colours
from pliant.analysis.draw_regions import draw_bins, draw_instances
from pliant.analysis.flops import FlopCount, count_flops, register_flop_formulas
from pliant.analysis.measure import LayerOffsets, OffsetWatch
from pliant.analysis.record import OffsetField, cell_centre, nearest_cell, record_offsets, sampling_positions
from pliant.analysis.trace import sampled_points

__all__ = [
    "RegionBins",
    "record_bins",
    "draw_boxes",
    "draw_curves",
    "draw_sampling",
    "draw_labels",
    "draw_ranking",
    "label_colours",
    "draw_bins",
    "draw_instances",
    "FlopCount",
    "count_flops",
    "register_flop_formulas",
    "LayerOffsets",
    "OffsetWatch",
    "OffsetField",
    "cell_centre",
    "nearest_cell",
    "record_offsets",
    "sampling_positions",
    "sampled_points",
]
