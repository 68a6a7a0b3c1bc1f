# SPDX-License-Identifier: Apache-2.0
"""Looks inside deformable networks: what they sample, how far they see, what they rest on; measured and drawn."""

from __future__ import annotations

from pliant.analysis.canvas import class_colour
from pliant.analysis.charts import draw_panels
from pliant.analysis.compose import sampling_footprint, sampling_points, stack_of
from pliant.analysis.dilation import DilationBySize, DilationRow, effective_dilation
from pliant.analysis.draw import draw_boxes, draw_curves, draw_sampling
from pliant.analysis.draw_label_maps import draw_labels, draw_ranking, label_colours
from pliant.analysis.draw_regions import draw_bins
from pliant.analysis.figure import Asked, draw_inside
from pliant.analysis.flops import FlopCount, count_flops
from pliant.analysis.gradients import BinGradients, LocationGradients, effective_locations, receptive_field
from pliant.analysis.health import HealthMeter, OffsetHealth, offset_health
from pliant.analysis.marks import (
    plot_bins,
    plot_dilation,
    plot_effective_bins,
    plot_field,
    plot_health,
    plot_image,
    plot_locations,
    plot_points,
    plot_saliency,
)
from pliant.analysis.measure import LayerOffsets, OffsetWatch
from pliant.analysis.nodes import MapNode, Node, RegionNode, node_responses
from pliant.analysis.pictures import draw_detections
from pliant.analysis.record import OffsetField, cell_centre, nearest_cell, record_offsets, sampling_positions
from pliant.analysis.region_views import effective_bins, region_bins
from pliant.analysis.regions import RegionBins, record_bins
from pliant.analysis.report import Report, explain
from pliant.analysis.saliency import SaliencyRegion, saliency_region
from pliant.analysis.statistics import Statistics, network_statistics
from pliant.analysis.view import Detections, View, detections_of, view_of

__all__ = [
    "sampling_points",
    "sampling_footprint",
    "receptive_field",
    "effective_locations",
    "saliency_region",
    "effective_dilation",
    "offset_health",
    "explain",
    "Report",
    "view_of",
    "View",
    "Detections",
    "detections_of",
    "stack_of",
    "network_statistics",
    "Statistics",
    "draw_inside",
    "Asked",
    "plot_image",
    "plot_points",
    "plot_field",
    "plot_locations",
    "plot_saliency",
    "plot_bins",
    "plot_effective_bins",
    "plot_dilation",
    "plot_health",
    "region_bins",
    "effective_bins",
    "MapNode",
    "RegionNode",
    "Node",
    "node_responses",
    "LocationGradients",
    "BinGradients",
    "SaliencyRegion",
    "DilationBySize",
    "DilationRow",
    "OffsetHealth",
    "HealthMeter",
    "OffsetField",
    "record_offsets",
    "sampling_positions",
    "cell_centre",
    "nearest_cell",
    "RegionBins",
    "record_bins",
    "LayerOffsets",
    "OffsetWatch",
    "draw_boxes",
    "draw_curves",
    "draw_panels",
    "draw_sampling",
    "draw_labels",
    "draw_ranking",
    "label_colours",
    "draw_bins",
    "draw_detections",
    "class_colour",
    "FlopCount",
    "count_flops",
]
