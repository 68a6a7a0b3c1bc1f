# SPDX-License-Identifier: Apache-2.0
"""Frames of videos: which ones come, in which order, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.videos import write_video
from pliant.data import UnreadableImageError, video_frames

pytest.importorskip("av")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".MKV"])
def test_each_frame_comes_with_its_number(tmp_path: Path, suffix: str) -> None:
    found = list(video_frames(write_video(tmp_path / f"clip{suffix}", 7), every=3))
    assert [number for number, _ in found] == [0, 3, 6]
    assert all(image.shape == (3, 48, 64) for _, image in found)
    assert [round(image.float().mean().item() / 30) for _, image in found] == [0, 3, 6]


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.mp4", 2)
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(secret.read_bytes()[:100])
    for path in (playlist, cut, tmp_path / "none.mp4"):
        with pytest.raises(UnreadableImageError, match="^video: must be readable; got .*; play it to see") as caught:
            list(video_frames(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match=r"^video: must end in \.mp4, .*; got .*list\.m3u8; convert it"):
        list(video_frames(tmp_path / "list.m3u8"))
