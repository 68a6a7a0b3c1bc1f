# SPDX-License-Identifier: Apache-2.0
"""Files from strangers: MXNet's format byte by byte, damage of every kind, and pickles that must not run."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant._check import PliantError
from pliant.backbones import read_tensors
from pliant.checkpoints import convert_checkpoint
from pliant.checkpoints.files import read_checkpoint

# Written by MXNet 1.9.1: mx.nd.save(f, {"arg:a": arange(6).reshape((2, 3)), "aux:b": ones((4,), dtype="float16")}).
BY_MXNET = bytes.fromhex(
    "12010000000000000000000000000000"
    "0200000000000000c9fa93f900000000"
    "02000000020000000000000003000000"
    "00000000010000000000000000000000"
    "000000000000803f0000004000004040"
    "000080400000a040c9fa93f900000000"
    "01000000040000000000000001000000"
    "0000000002000000003c003c003c003c"
    "02000000000000000500000000000000"
    "6172673a610500000000000000617578"
    "3a62"
)


def _write(folder: Path, content: bytes, name: str = "w.params") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _file(array: bytes, names: tuple[bytes, ...] = (b"arg:w",)) -> bytes:
    listed = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<Q", len(names)) + listed


def test_what_mxnet_wrote_is_read(tmp_path: Path) -> None:
    arrays = read_checkpoint(_write(tmp_path, BY_MXNET))
    assert list(arrays) == ["arg:a", "aux:b"]
    assert torch.equal(arrays["arg:a"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(arrays["aux:b"], torch.ones(4, dtype=torch.float16))


@pytest.mark.parametrize(
    ("head", "dims"),
    [
        (struct.pack("<II", 0xF993FAC8, 2), "<qq"),  # MXNet 0.9 to 0.11
        (struct.pack("<I", 2), "<II"),  # before
        (struct.pack("<IiI", 0xF993FACA, 0, 2), "<qq"),  # with numpy shapes
    ],
)
def test_every_version_of_the_format_is_read(head: bytes, dims: str, tmp_path: Path) -> None:
    content = struct.pack("<iii3d", 1, 0, 1, 1.5, -2.0, 0.25)
    path = _write(tmp_path, _file(head + struct.pack(dims, 3, 1) + content))
    assert read_checkpoint(path)["arg:w"].tolist() == [[1.5], [-2.0], [0.25]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0 bytes, too early"),
        (b"\x13" + BY_MXNET[1:], "does not begin as one"),
        (BY_MXNET[:-1], "announces 5 items in its last 4 bytes"),
        (BY_MXNET[:60], "ends after 60 bytes, too early"),
        (BY_MXNET + b"x", "goes on for 1 bytes after its end"),
        (struct.pack("<QQQ", 0x112, 0, 2**62), "announces 4611686018427387904 items in its last 0 bytes"),
        (_file(struct.pack("<Ii", 0xF993FAC9, 1)), "has a sparse array, which pliant does not read"),
        (_file(struct.pack("<I", 33)), "has an array of 33 dimensions"),
        (_file(struct.pack("<IIqq", 0xF993FAC8, 2, -1, -8)), r"has an array of the shape \(-1, -8\)"),
        (_file(struct.pack("<II3i", 1, 2, 1, 0, 99)), "has an array of the unknown type 99"),
        (_file(struct.pack("<III3i", 2, 2**31, 2**31, 1, 0, 0)), ".* too early"),
        (struct.pack("<QQQ", 0x112, 0, 100_001) + bytes(400_004), "has 100001 arrays"),
        (_file(struct.pack("<II3if", 1, 1, 1, 0, 0, 1.0), ()), "has 1 arrays and 0 names"),
        (_file(struct.pack("<II3if", 1, 1, 1, 0, 0, 1.0), (b"\xff",)), "has a name that is not text"),
    ],
)
def test_damaged_params_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(
        PliantError, match=rf"checkpoint: must be a .params file of MXNet; got .*w.params, which {message}; copy"
    ):
        read_checkpoint(_write(tmp_path, content))


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(BY_MXNET) - 1), value=st.integers(0, 255), end=st.integers(0, len(BY_MXNET)))
def test_no_damage_does_more_than_be_refused(
    place: int, value: int, end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(BY_MXNET)
    content[place] = value
    path = _write(tmp_path_factory.getbasetemp(), bytes(content[:end]))
    try:
        arrays = read_checkpoint(path)
    except PliantError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(BY_MXNET)


def test_an_array_without_elements_may_claim_any_size(tmp_path: Path) -> None:
    head = struct.pack("<II3q3i", 0xF993FAC8, 3, 2**62, 2**62, 0, 1, 0, 0)
    assert read_checkpoint(_write(tmp_path, _file(head)))["arg:w"].numel() == 0


class _Runs:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": _Runs(marker)}, tmp_path / "w.pth")
    with pytest.raises(
        PliantError, match=r"must hold tensors and plain values alone; .*; ask its maker for the state dict alone"
    ):
        read_checkpoint(tmp_path / "w.pth")
    _write(tmp_path, pickle.dumps(_Runs(marker)), "model.pkl")
    with pytest.raises(PliantError, match=r"must not be a pickle, which runs code when it is read; got .*model.pkl"):
        read_checkpoint(tmp_path / "model.pkl")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 2000), st.integers(0, 255), min_size=1, max_size=4))
def test_no_damaged_pytorch_file_does_more_than_be_refused(
    changes: dict[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, damaged = (tmp_path_factory.getbasetemp() / name for name in ("whole.pth", "damaged.pth"))
    torch.save({"state_dict": {"a.weight": torch.ones(3, 4), "b": torch.zeros(2)}, "epoch": 3}, whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(damaged, "w") as changed:
        for name in given.namelist():
            content = bytearray(given.read(name))
            for place, value in changes.items() if name.endswith("data.pkl") else ():
                content[place % len(content)] = value
            changed.writestr(name, bytes(content))
    try:
        tensors = read_checkpoint(damaged)
    except PliantError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused, some are none the worse
    else:
        assert sum(tensor.nbytes for tensor in tensors.values()) < 1000


def test_small_files_cannot_hold_huge_tensors(tmp_path: Path) -> None:
    rule = r"must hold dense tensors that are about as large as the file; got .*w.pth of \d+ bytes; save contiguous"
    for tensor in (torch.zeros(1).expand(10**6, 10**6), torch.zeros(3, device="meta")):
        torch.save({"w": tensor}, tmp_path / "w.pth")
        with pytest.raises(PliantError, match=f"checkpoint: {rule}"):
            read_checkpoint(tmp_path / "w.pth")
    torch.save({"w": torch.zeros(10**5)}, tmp_path / "plain.pth")
    assert read_checkpoint(tmp_path / "plain.pth")["w"].shape == (10**5,)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    with pytest.raises(PliantError, match=r"weights: must not be compressed; got .*small.pth; save it again with"):
        read_tensors(tmp_path / "small.pth")


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=r"checkpoint: must be a file; got .*none.pth"):
        read_checkpoint(tmp_path / "none.pth")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(
            PliantError, match=r"checkpoint: must .*; got .*; (copy it again|ask its maker for the state dict)"
        ) as caught:
            read_checkpoint(_write(tmp_path, b"not a checkpoint at all", name))
        assert "\n" not in str(caught.value)
    torch.save({"encoder.w": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(PliantError, match=r"must come from mmdetection, .*; got 1 tensor such as encoder.w; name it"):
        convert_checkpoint(tmp_path / "other.pth")
