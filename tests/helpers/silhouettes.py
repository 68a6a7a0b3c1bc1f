# SPDX-License-Identifier: Apache-2.0
"""Made-up silhouettes in the files of animal-mnist."""

from __future__ import annotations

import gzip
import pickle

import numpy as np

from pliant.demo.silhouettes import FILES


def silhouette_files() -> dict[str, bytes]:
    """Return the content of both files: triangles with two corners cut off by 200 different amounts, and one twice."""
    shapes = np.zeros((201, 28, 28), dtype=np.uint8)
    rows, columns = np.mgrid[0:28, 0:28]
    for k in range(200):
        shapes[k][(rows > columns) & (columns >= k // 20) & (rows < 28 - k % 20)] = 255
        shapes[k][0, k // 20], shapes[k][1, k % 20] = 9, 9  # the smallest would be alike
    shapes[200] = shapes[0]
    arrays = (shapes, np.arange(201) % 10)
    return {name: gzip.compress(pickle.dumps(array)) for name, array in zip(FILES, arrays, strict=True)}
