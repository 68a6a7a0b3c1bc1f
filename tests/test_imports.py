# SPDX-License-Identifier: Apache-2.0
"""`import pliant` in fresh processes: with torch alone, without the compiled library, loading nothing optional."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import pliant
from helpers.fresh import output_of

OPTIONAL = [
    "PIL",
    "accelerate",
    "faster_coco_eval",
    "matplotlib",
    "onnx",
    "pycocotools",
    "rich",
    "safetensors",
    "tensorboard",
    "timm",
    "torchvision",
    "triton",
]

# Refuses the modules named on the command line, as if they were not installed.
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
sys.meta_path.insert(0, Blocked())
"""

# A deformable convolution whose one offset moves the kernel a whole pixel to the right, so the result is known.
RUN = """
import warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import pliant
    from pliant.ops import deform_conv2d
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 1] = 1.0
    for _ in range(2):
        y = deform_conv2d(x, offset, torch.full((1, 1, 1, 1), 2.0))
    layer = pliant.nn.DeformConv2d(1, 1, 3)
print(y[0, 0].tolist())
"""
SHIFTED = "[[2.0, 4.0, 6.0, 0.0], [10.0, 12.0, 14.0, 0.0], [18.0, 20.0, 22.0, 0.0]]"


SOURCE = Path(__file__).resolve().parent.parent / "src"


def run(code: str, *arguments: str, source: Path = SOURCE) -> str:
    """Run `code` in a fresh interpreter that finds pliant in `source`; return what it printed."""
    # An editable install may find pliant by a finder of its own, which comes before every path.
    start = f"import sys; sys.path.insert(0, {str(source)!r})\n"
    start += "sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith('_editable')]\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROGRAMS = {
    "pliant": ["-c", "from pliant_command import main; main()"],
    "python -m pliant": ["-m", "pliant"],
    "with arguments": ["-X", "utf8", "-m", "pliant", "env", "-m"],
    "in one word": ["-mpliant", "env"],
}


def interrupted_start(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Start Python where a PyTorch stands that gets Ctrl-C while it is imported, and catches it."""
    torch = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    torch += "except KeyboardInterrupt:\n    print('caught')"
    (folder / "torch.py").write_text(torch, encoding="utf-8")
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(SOURCE), *sys.path])},
        # A process that was started in the background ignores the signal until it is told otherwise.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_while_pytorch_is_imported_is_one_line(program: str, tmp_path: Path) -> None:
    done = interrupted_start(PROGRAMS[program], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pliant: interrupted\n")


def test_other_programs_get_their_interrupt(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import pliant", encoding="utf-8")
    (tmp_path / "other" / "__main__.py").touch()
    for arguments in (["-c", "import pliant"], ["-m", "other"], ["-m", "other", "-m", "pliant"]):
        assert interrupted_start(arguments, tmp_path).stdout == "caught\n"


@pytest.fixture(scope="module")
def loaded_by_torch() -> set[str]:
    """Modules that a process has which imported torch and nothing else."""
    return set(output_of("import sys; print(*sys.modules)").split())


def test_the_block_blocks() -> None:
    with pytest.raises(AssertionError, match="No module named 'timm' \\(blocked\\)"):
        run(BLOCK + "import timm", "timm")


def test_works_with_torch_alone() -> None:
    assert run(BLOCK + RUN, *OPTIONAL) == SHIFTED


def test_import_loads_nothing_optional(loaded_by_torch: set[str]) -> None:
    loaded = set(output_of("import sys, pliant; print(*sys.modules)").split())
    assert "pliant.ops" in loaded
    assert {name.split(".")[0] for name in loaded - loaded_by_torch} & set(OPTIONAL) == set()


def test_works_without_the_library_and_warns_once(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib")
    shutil.copytree(SOURCE / "pliant", tmp_path / "pliant", ignore=ignore)
    report = "print(len(caught), *{str(w.message) for w in caught if w.category is RuntimeWarning})"
    values, warned = run(RUN + report, source=tmp_path).splitlines()
    assert values == SHIFTED
    assert warned.startswith("1 pliant.ops.deform_conv2d runs its slow reference implementation on cpu: ")
    assert "PLIANT_NO_NATIVE" in warned


def test_training_is_imported_when_it_is_asked_for(loaded_by_torch: set[str]) -> None:
    code = "import sys, pliant.train; config = pliant.train.TrainConfig(data='d'); before = set(sys.modules)\n"
    code += "from pliant.train import train, resume, load_run; print(train.__module__, *before)"
    module, *before = output_of(code).split()
    assert module == "pliant.train.run"
    assert {name.split(".")[0] for name in set(before) - loaded_by_torch} & set(OPTIONAL) == set()
    assert output_of("import pliant.train; print(hasattr(pliant.train, 'trian'))") == "False"


def test_public_page() -> None:
    names = "nn ops plan convert revert fuse load param_groups PliantError __version__"
    assert output_of(f"import pliant; print(*[n for n in {names.split()} if not hasattr(pliant, n)])") == ""


def test_an_error_is_caught_by_its_public_name() -> None:
    with pytest.raises(pliant.PliantError, match="must match the name of a convolution"):
        pliant.plan(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), "nowhere")


# What users rely on: arguments in this order, with these names and defaults.
SIGNATURES = {
    "ops.deform_conv2d": "input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None, "
    "*, impl='auto'",
    "ops.deform_roi_pool": "input, boxes, output_size, offset=None, mask=None, spatial_scale=1.0, sampling_ratio=0, "
    "gamma=0.1, *, impl='auto'",
    "ops.deform_ps_roi_pool": "input, boxes, output_size, output_channels, offset=None, mask=None, spatial_scale=1.0, "
    "group_size=1, part_size=None, samples_per_bin=4, gamma=0.1, *, impl='auto'",
    "nn.DeformConv2d": "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, "
    "*, offset_groups=1, modulated=True, mask_scale=1.0, offset_limit=None, device=None, dtype=None",
    "nn.DeformRoIPool": "output_size, in_channels, spatial_scale=1.0, sampling_ratio=0, gamma=0.1, *, modulated=True, "
    "hidden_channels=1024, branch='paper', device=None, dtype=None",
    "nn.DeformPSRoIPool": "output_size, in_channels, output_channels, spatial_scale=1.0, *, classes=None, "
    "group_size=None, part_size=None, samples_per_bin=4, gamma=0.1, device=None, dtype=None",
    "plan": "model, where, *, modulated=True, offset_groups=1",
    "convert": "model, where, *, modulated=True, offset_groups=1, mask_scale=2.0, offset_limit=None",
    "revert": "model",
    "load": "run, *, device='auto'",
    "param_groups": "model, lr, weight_decay, offset_lr_scale=0.1, *, roi_offset_lr_scale=None, norm_weight_decay=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signatures(name: str) -> None:
    signature = inspect.signature(attrgetter(name)(pliant))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"
