# SPDX-License-Identifier: Apache-2.0
"""Recipes: every file is sound, every model can be built, and the numbers are those of the papers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from pliant._check import PliantError
from pliant.nn import DeformConv2d
from pliant.surgery import plan
from pliant.train import TrainConfig, recipes
from pliant.train.config import overridden
from pliant.train.model import build_model
from pliant.train.recipes import recipe

# Modulation that starts at 1/2 warns.
pytestmark = pytest.mark.filterwarnings("ignore:mask_scale=:UserWarning")

FOLDER = Path(str(recipes.__file__)).parent
NAMES = tuple(recipes.recipes())
# What a model is built from, less what makes it large.
BUILT = ("model", "modulated", "roi_pool", "roi_branch", "roi_shared", "ohem", "class_agnostic",
         "background_iou", "mimic", "window")  # fmt: skip


def _config(name: str, **changed: Any) -> TrainConfig:
    return TrainConfig.from_dict(overridden({**recipe(name).settings, "data": ".", "weights": None}, changed))


def test_no_name_is_used_twice_and_every_row_says_what_it_is() -> None:
    files = {path.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.toml")}
    named = [name for file in files.values() for kind in ("base", "recipe") for name in file.get(kind, {})]
    assert len(named) == len(set(named))
    assert sum(len(file.get("recipe", {})) for file in files.values()) == len(NAMES) > 140
    assert all(file["source"] for file in files.values() if "recipe" in file)
    used = {entry["base"] for file in files.values() for kind in file.values() if isinstance(kind, dict)
            for entry in kind.values() if "base" in entry}  # fmt: skip
    assert {name for file in files.values() for name in file.get("base", {})} == used, "a base that no row stands on"


def test_every_recipe_is_a_config() -> None:
    for name in NAMES:
        assert recipe(name).row
        config = _config(name)
        assert config.as_dict().items() >= {"data": ".", "model": config.model}.items()


def _structures() -> list[str]:
    """The first recipe of each structure; one of those that differ in the number of last layers, or in the dilation."""
    found: dict[tuple[str, ...], str] = {}
    for name in NAMES:
        config = _config(name)
        structure = tuple(str(getattr(config, option)) for option in BUILT)
        found.setdefault((*structure, str(config.deform)[:4], str(config.dilation is None)), name)
    return list(found.values())


@pytest.mark.parametrize("name", _structures())
def test_every_model_can_be_built(name: str) -> None:
    config = _config(name)
    if not str(config.deform).startswith("^"):  # that names layers which a small backbone has not
        config = _config(name, backbone="resnet18")
    with torch.device("meta"):
        model = build_model(config, 3)
    assert any(isinstance(m, DeformConv2d) for m in model.modules()) == (config.deform is not None)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("v1-deeplab-voc-0", 0),
        ("v1-rfcn-voc-1", 1),
        ("v1-rfcn-voc-2", 2),
        ("v1-rfcn-voc-3", 3),
        ("v1-rfcn-voc-6", 6),
        ("v2-faster-rcnn-1000-mdconv-c3c5-mdpool", 13),
        ("v2-faster-rcnn-r101-dcnv2", 30),
        ("mmdet-faster-rcnn-r101-dconv", 30),
    ],
)
def test_the_papers_counts_of_deformable_layers(name: str, layers: int) -> None:
    config = _config(name)
    with torch.device("meta"):
        network = torchvision.models.get_model(config.backbone, weights=None) if layers else None
    rows = plan(network, str(config.deform)).rows if network is not None else ()
    assert len(rows) == layers
    if layers == 6:
        assert sorted(row.name for row in rows)[:3] == ["layer3.20.conv2", "layer3.21.conv2", "layer3.22.conv2"]


def test_numbers_of_the_papers() -> None:
    v1 = _config("v1-faster-rcnn-voc-3-dpool")
    assert (v1.steps, v1.step_images, v1.min_size, v1.roi_samples) == (30000, 8, (600,), 128)
    assert (v1.weight_decay, v1.momentum, v1.offset_lr_scale, v1.modulated) == (5e-4, 0.9, 1.0, False)
    assert _config("v1-rfcn-coco-deform").steps == 240000
    assert _config("v1-deeplab-cityscapes-3").steps == 45000
    assert _config("v1-rfcn-coco-air-mb-deform").test_scales == (480, 576, 688, 864, 1200, 1400)
    assert _config("v1-class-aware-rpn-voc-atrous6").dilation == 6
    official = _config("official-rfcn-coco-deform")
    assert (official.lr, official.epochs, official.ohem, official.offset_groups) == (0.004, 16, 128, 4)
    v2 = _config("v2-faster-rcnn-800-dconv-c4c5")
    assert (v2.epochs, v2.lr, v2.milestones, v2.step_images) == (16, 0.02, (0.625, 0.875), 16)
    assert (v2.min_size, v2.proposals, v2.train_proposals, v2.roi_samples) == ((800,), 1000, 2000, 512)
    mimic = _config("v2-faster-rcnn-mimic-all")
    assert (mimic.mimic_boxes, mimic.mimic_weight, mimic.mimic_boxes_per_image) == ("all", 0.1, 32)
    mmdet = _config("mmdet-faster-rcnn-r50-mdconv-group4")
    assert (mmdet.epochs, mmdet.offset_groups, mmdet.warmup_factor) == (12, 4, 0.3333)


@pytest.mark.parametrize("system", ["deeplab-cityscapes", "rfcn-voc"])
def test_atrous_rows_dilate_conv5_and_nothing_else(system: str) -> None:
    with torch.device("meta"):
        model = build_model(_config(f"v1-{system}-atrous6", backbone="resnet18"), 3)
    body = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)}
    dilations = {tuple(m.dilation) for name, m in body.items() if ".layer4." in name}
    paddings = {tuple(m.padding) for name, m in body.items() if ".layer4." in name}
    assert dilations == paddings == {(6, 6)}
    assert {tuple(m.dilation) for name, m in body.items() if ".layer3." in name} == {(1, 1)}


def test_the_documentation_names_recipes_that_are_there() -> None:
    root = Path(__file__).parents[2]
    pages = "\n".join(page.read_text(encoding="utf-8") for page in [root / "README.md", *root.glob("docs/*.md")])
    named = set(re.findall(r"--recipe ([\w-]+)", pages)) - {"NAME"}
    assert len(named) >= 8
    assert named <= set(NAMES)


def test_what_is_not_known_is_refused_with_the_nearest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PliantError, match="recipe: must name a recipe; got 'v1-rfcn-voc3'; .* Did you mean 'v1-rfcn-"):
        recipe("v1-rfcn-voc3")
    text = 'source = "s"\n[base.one]\nlr = 0.1\n[recipe.two]\nrow = "r"\nbase = "{base}"\n{key} = 3\n'
    for base, key, message in [
        ("on", "epochs", "recipe two: must have a base that is there; got 'on'; .* Did you mean 'one'"),
        ("one", "epoch", "recipe two: must have known keys; got 'epoch'; .* Did you mean 'epochs'"),
    ]:
        monkeypatch.setattr(recipes, "_texts", lambda base=base, key=key: [text.format(base=base, key=key)])
        recipes.recipes.cache_clear()
        with pytest.raises(PliantError, match=message):
            recipes.recipes()
    monkeypatch.undo()
    recipes.recipes.cache_clear()
