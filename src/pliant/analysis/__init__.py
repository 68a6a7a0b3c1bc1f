# SPDX-License-Identifier: Apache-2.0
"""Where deformable layers sample: recorded, measured and drawn."""

from __future__ import annotations

from .bins import RegionBins as RegionBins
from .bins import record_bins as record_bins
from .draw import draw_boxes as draw_boxes
from .draw import draw_curves as draw_curves
from .draw import draw_sampling as draw_sampling
from .draw_labels import draw_labels as draw_labels
from .draw_labels import draw_ranking as draw_ranking
from .draw_labels import label_colours as label_colours
from .draw_regions import draw_bins as draw_bins
from .draw_regions import draw_instances as draw_instances
from .flops import FlopCount as FlopCount
from .flops import count_flops as count_flops
from .flops import register_flop_formulas as register_flop_formulas
from .measure import LayerOffsets as LayerOffsets
from .measure import OffsetWatch as OffsetWatch
from .record import OffsetField as OffsetField
from .record import cell_centre as cell_centre
from .record import nearest_cell as nearest_cell
from .record import record_offsets as record_offsets
from .record import sampling_positions as sampling_positions
from .trace import sampled_points as sampled_points
