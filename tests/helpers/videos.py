# SPDX-License-Identifier: Apache-2.0
"""Videos made with PyAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def write_video(path: Path, frames: int, height: int = 48, width: int = 64) -> Path:
    """Write a video whose k-th frame is grey, 30 * k bright."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(frames):
            picture = np.full((height, width, 3), 30 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
