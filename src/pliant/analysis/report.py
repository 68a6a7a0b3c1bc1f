# SPDX-License-Identifier: Apache-2.0
"""The page that explains a network on one photograph: measured here, drawn by the script in it, in one file."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import importlib.resources
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pliant._check import require_package
from pliant._writing import write_text
from pliant.analysis.compose import stack_of
from pliant.analysis.gradients import receptive_field
from pliant.analysis.nodes import MapNode, RegionNode
from pliant.analysis.record import OffsetField, record_offsets
from pliant.analysis.region_views import effective_bins, region_bins
from pliant.analysis.saliency import saliency_region
from pliant.analysis.view import Detections, View, detections_of, view_of

PICTURE_PIXELS = 1000  # the longer side of the photograph in the page
FIELD_CELLS = 96  # the longer side of a receptive field in the page
LAYER_BYTES = 3_200_000  # of the layers' offsets, compressed; a third more as text
STEPS = 64  # to a cell: offsets are kept to 1/64 of a cell, less than a pixel up to stride 64

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps in all


@dataclass(frozen=True)
class Report:
    """A page in one file, which needs no network and no server.

    Attributes:
        page: the HTML.
        left_out: names of deformable layers that the page has no room for.
    """

    page: str
    left_out: tuple[str, ...] = ()

    def save(self, path: Path | str) -> None:
        """Write the page into a file."""
        write_text(path, self.page)

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own, so that neither's styles reach the other."""
        style = "width: 100%; height: 720px; border: 0"
        return f'<iframe title="pliant report" style="{style}" srcdoc="{html.escape(self.page, quote=True)}"></iframe>'


def explain(
    model: nn.Module,
    image: Tensor,
    *,
    input: Tensor | None = None,
    title: str = "",
    names: Sequence[str] = (),
    detections: Detections | None = None,
    units: int = 8,
    regions: int = 12,
    saliency: int = 1,
    budget: int = 24,
    min_score: float = 0.5,
    progress: Progress | None = None,
) -> Report:
    """Return the page that explains what a model samples, how far it sees and what it rests on, for one photograph.

    Args:
        model: see `view_of`; with deformable convolutions.
        image: uint8 (3, h, w).
        input: for a plain network, see `view_of`.
        title: the page's heading.
        names: names of the labels 1, 2, ...; text, whatever it contains.
        detections: boxes, labels and scores, in the photograph's pixels; None: what the model detects, if it does.
        units: receptive fields, of units on a grid over the map of the topmost layer: one backward pass each.
        regions: at most so many detections, the surest ones, with the bins that they are pooled in.
        saliency: for so many of them the receptive field, the saliency region and the bins' effects too.
        budget: masked images that a saliency region may take, see `saliency_region`.
        min_score: least score of a detection (0..1).
        progress: called with what is being done, the steps done and all steps.

    Raises:
        ValueError: the model has no deformable convolution, or `image` is not a photograph.
        PliantError: Pillow is not installed.

    Example:
        >>> from pliant.nn import DeformConv2d
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), DeformConv2d(4, 5, 3, padding=1))
        >>> report = explain(model, torch.zeros(3, 48, 64, dtype=torch.uint8), units=2)
        >>> report.page.startswith("<!DOCTYPE html>")
        True

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 5 to 7; Deformable ConvNets v2 (arXiv 1811.11168),
        section 2.1.
    """
    view = view_of(model, image, input=input)
    tell = progress or (lambda what, done, most: None)
    fields = record_offsets(view.network, view.input)
    kept, left_out, layers = _layers(fields)
    stacks = _stacks(kept)
    found = detections_of(model, view) if detections is None else detections
    data = {
        "title": title or type(model).__name__,
        "image": _picture(image),
        "size": list(view.size),
        "layers": layers,
        "stacks": stacks,
        "fields": _unit_fields(view, kept[stacks[0]["layers"][0]], units, tell),
        "detections": _detections(view, found, names, (regions, saliency, budget), min_score, tell),
        "leftOut": left_out,
    }
    return Report(_page(data), tuple(left_out))


def _page(data: dict[str, Any]) -> str:
    """The template with the data in it; as text in a script `<` would end it, so it is written by its number."""
    folder = importlib.resources.files("pliant.analysis") / "page"
    page, style, script = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    values = {"STYLE": style, "SCRIPT": script, "TITLE": html.escape(str(data["title"])), "DATA": text}
    return re.sub(r"/\*([A-Z]+)\*/", lambda mark: values[mark[1]], page)  # in one pass: no value is looked into


def _layers(fields: Sequence[OffsetField]) -> tuple[list[OffsetField], list[str], list[dict[str, Any]]]:
    """The layers for which there is room, from the last to the first: fields, names of the others, data."""
    kept: list[tuple[OffsetField, dict[str, Any]]] = []
    left_out, room = [], LAYER_BYTES * 4 // 3
    for field in reversed(fields):
        record = _layer(field)
        room -= len(record["data"])
        if room < 0:
            left_out.append(field.layer)
            room += len(record["data"])
        else:
            kept.insert(0, (field, record))
    return [field for field, _ in kept], left_out, [record for _, record in kept]


def _layer(field: OffsetField) -> dict[str, Any]:
    plain = field.plain()
    groups, _, rows, columns = field.mask.shape[1:]
    steps = (field.offsets[0].nan_to_num(nan=1e9).movedim(-1, 2) * STEPS).round().clamp(-32767, 32767).to(torch.int16)
    bits = steps.to(torch.int32)  # (G, K, 2, rows, columns); low bytes, then high bytes, compress better than pairs
    low, high = (bits & 255).to(torch.uint8), ((bits >> 8) & 255).to(torch.uint8)
    mask = (field.mask[0] / (field.mask_limit or 1.0) * 255).round().clamp(0, 255).to(torch.uint8)
    return {
        "name": field.layer,
        "kernel": list(field.kernel_size),
        "groups": groups,
        "taps": [tap.tolist() for tap in plain.cells[0, 0, :, 0, 0]],
        "stride": [round(o / i) for o, i in zip(field.output_stride, field.input_stride, strict=True)],
        "rows": rows,
        "columns": columns,
        "inputSize": list(field.input_size),
        "inputStride": list(field.input_stride),
        "outputStride": list(field.output_stride),
        "step": 1 / STEPS,
        "maskLimit": field.mask_limit or 1.0,
        "modulated": field.mask_limit is not None,
        "data": _packed(torch.cat([low.flatten(), high.flatten(), mask.flatten()])),
    }


def _stacks(fields: Sequence[OffsetField]) -> list[dict[str, Any]]:
    """What can be chosen: the default stack of up to three layers first, then each layer alone, the last first."""
    default = [fields.index(field) for field in stack_of(fields)]
    stacks = [{"name": f"{len(default)} stacked layers, the top one {fields[default[0]].layer}", "layers": default}]
    singles = [{"name": fields[i].layer, "layers": [i]} for i in reversed(range(len(fields)))]
    return (stacks if len(default) > 1 else []) + singles


def _unit_fields(view: View, top: OffsetField, units: int, tell: Progress) -> dict[str, Any]:
    """Receptive fields of units on a grid with the map's proportions."""
    height, width = top.output_size
    down = max(1, min(height, round(math.sqrt(units * height / width))))
    across = max(1, min(width, units // down))
    cells = [
        (int((i + 0.5) * height / down), int((j + 0.5) * width / across)) for i in range(down) for j in range(across)
    ]
    maps = []
    for done, cell in enumerate(cells if units > 0 else []):
        tell("receptive fields", done, len(cells))
        maps.append(_small(receptive_field(view.network, view.input, MapNode(top.layer, cell))[0], view.size))
    shape = list(maps[0].shape) if maps else [0, 0]
    packed = _packed(torch.stack(maps)) if maps else ""
    return {"layer": top.layer, "cells": [list(c) for c in cells[: len(maps)]], "shape": shape, "data": packed}


def _small(field: Tensor, size: tuple[int, int]) -> Tensor:
    """A receptive field (H, W) as bytes: means over blocks, as the square root of their share of the largest."""
    field = field[: size[0], : size[1]]
    scale = min(1.0, FIELD_CELLS / max(field.shape))
    shape = (max(1, round(field.shape[0] * scale)), max(1, round(field.shape[1] * scale)))
    means = nn.functional.adaptive_avg_pool2d(field[None, None], shape)[0, 0]
    return (255 * (means / means.max().clamp(min=1e-30)).sqrt()).round().to(torch.uint8)


def _detections(
    view: View,
    found: Detections | None,
    names: Sequence[str],
    limits: tuple[int, int, int],
    min_score: float,
    tell: Progress,
) -> list[dict[str, Any]]:
    """The surest detections, each with its bins and the first with fields and saliency regions."""
    if found is None:
        return []
    regions, saliency, budget = limits
    chosen = (found["scores"] >= min_score).nonzero()[:regions, 0]
    boxes, labels = view.boxes_to_input(found["boxes"][chosen]), found["labels"][chosen].tolist()
    bins = region_bins(view, boxes, labels) if len(boxes) else None
    records = []
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        record: dict[str, Any] = {
            "box": _rounded(box),
            "label": str(names[label - 1]) if 0 < label <= len(names) else f"label {label}",
            "score": round(float(found["scores"][chosen[i]]), 3),
        }
        if bins is not None:
            record |= {"bins": [_rounded(b) for b in bins[0][i].reshape(-1, 4)], "weights": _rounded(bins[1][i], 3)}
        if i < saliency and view.detector is not None:
            record |= _region_record(view, box, budget, functools.partial(tell, f"saliency {i + 1}"))
            record |= _bin_effects(view, box, label)
        records.append(record)
    return records


def _region_record(view: View, box: Tensor, budget: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The receptive field and the saliency region of a detection."""
    assert view.detector is not None
    x1, y1, x2, y2 = box.tolist()
    node = RegionNode((x1, y1, x2, y2), view.size)
    field = _small(receptive_field(view.detector, view.input, node)[0], view.size)
    region = saliency_region(view.detector, view.input, node, budget=budget, size=view.size, progress=progress)
    shown = region.mask[: view.size[0], : view.size[1]]
    cells = nn.functional.interpolate(shown[None, None].float(), tuple(field.shape), mode="nearest")[0, 0]
    return {
        "field": _packed(field),
        "saliency": _packed((cells * 255).to(torch.uint8)),
        "shape": list(field.shape),
        "error": round(region.error, 4),
        "share": round(region.share, 4),
    }


def _bin_effects(view: View, box: Tensor, label: int) -> dict[str, Any]:
    """How much a detection depends on where its bins are, as shares of the strongest, and which that is."""
    found = effective_bins(view, box, label)
    if found is None:
        return {}
    effects = found[1]
    strongest = divmod(int(effects.argmax()), effects.shape[1])  # row, column
    return {"effects": _rounded(effects / effects.max().clamp(min=1e-30), 3), "strongest": list(strongest)}


def _rounded(values: Tensor, digits: int = 1) -> list[float]:
    return [round(value, digits) for value in values.flatten().tolist()]


def _packed(values: Tensor) -> str:
    """Bytes compressed, as text."""
    return base64.b64encode(gzip.compress(values.contiguous().numpy().tobytes(), 9, mtime=0)).decode("ascii")


def _picture(image: Tensor) -> dict[str, Any]:
    """The photograph as a JPEG in a data URL, no larger than the page shows."""
    require_package("PIL", "train", "the page")
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"src": source, "width": picture.width, "height": picture.height, "original": [*image.shape[1:]]}
