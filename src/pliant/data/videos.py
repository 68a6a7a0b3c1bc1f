# SPDX-License-Identifier: Apache-2.0
"""Frames of video files, one at a time, by PyAV, which brings FFmpeg; torchvision reads no videos any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pliant._check import fail, require_package
from pliant.data.images import MAX_PIXELS, UnreadableImageError

# FFmpeg also has formats that are lists of other files or addresses: the format is given, never guessed from the file.
_FORMATS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
VIDEO_EXTENSIONS = tuple(_FORMATS)


def video_frames(path: Path | str, *, every: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Yield frames of a video in order: the number of each, from 0, and its picture, uint8 (3, H, W).

    Args:
        path: an mp4, m4v, mov, mkv, webm or avi file.
        every: give each `every`-th frame alone, the first among them.

    Raises:
        PliantError: PyAV is not installed.
        UnreadableImageError: the file is no such video, is broken, or its frames are too large.

    Example:
        >>> import av, tempfile
        >>> path = tempfile.mkdtemp() + "/clip.avi"
        >>> with av.open(path, "w") as clip:
        ...     stream = clip.add_stream("mpeg4", rate=10)
        ...     stream.width, stream.height = 64, 48
        ...     clip.mux([*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()])
        >>> [(number, tuple(frame.shape)) for number, frame in video_frames(path)]
        [(0, (3, 48, 64))]
    """
    av = require_package("av", "video", "reading a video")
    form = _FORMATS.get(Path(path).suffix.lower())
    if form is None:
        fail("video", f"must end in {', '.join(_FORMATS)}", str(path), "convert it", kind=UnreadableImageError)
    try:
        # Nothing but the file itself is opened, whatever it names.
        with av.open(str(path), format=form, options={"protocol_whitelist": "file"}) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                fail("video", "must have pictures", f"none in {path}", "check the file", kind=UnreadableImageError)
            _check_size(path, stream.codec_context)
            for number, frame in enumerate(container.decode(stream)):
                _check_size(path, frame)
                if number % every == 0:
                    yield number, torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    except av.error.FFmpegError as error:
        fail("video", "must be readable", str(error), "play it to see if it is whole", kind=UnreadableImageError)


def _check_size(path: Path | str, picture: Any) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height} in {path}"
        fail("video", f"must have at most {MAX_PIXELS} pixels a frame", size, "reduce it", kind=UnreadableImageError)
