# SPDX-License-Identifier: Apache-2.0
"""Where deformable layers sample: recorded, measured and drawn."""

from __future__ import annotations

from pliant.analysis.bins import RegionBins as RegionBins
from pliant.analysis.bins import record_bins as record_bins
from pliant.analysis.draw import draw_boxes as draw_boxes
from pliant.analysis.draw import draw_curves as draw_curves
from pliant.analysis.draw import draw_sampling as draw_sampling
from pliant.analysis.draw_labels import draw_labels as draw_labels
from pliant.analysis.draw_labels import draw_ranking as draw_ranking
from pliant.analysis.draw_labels import label_colours as label_colours
from pliant.analysis.draw_regions import draw_bins as draw_bins
from pliant.analysis.draw_regions import draw_instances as draw_instances
from pliant.analysis.flops import FlopCount as FlopCount
from pliant.analysis.flops import count_flops as count_flops
from pliant.analysis.flops import register_flop_formulas as register_flop_formulas
from pliant.analysis.measure import LayerOffsets as LayerOffsets
from pliant.analysis.measure import OffsetWatch as OffsetWatch
from pliant.analysis.record import OffsetField as OffsetField
from pliant.analysis.record import cell_centre as cell_centre
from pliant.analysis.record import nearest_cell as nearest_cell
from pliant.analysis.record import record_offsets as record_offsets
from pliant.analysis.record import sampling_positions as sampling_positions
from pliant.analysis.trace import sampled_points as sampled_points
