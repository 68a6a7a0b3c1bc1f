# SPDX-License-Identifier: Apache-2.0
"""What is timed of whole networks: ResNet-50, and a training step of Faster R-CNN, plain and with layers of c3 to c5.

The offsets have a pixel's spread, as trained ones do: at rest all samples would stand on pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import pliant
from benchmarks.contenders import Run
from pliant.nn import DeformConv2d


@contextmanager
def torchvisions_operator() -> Iterator[None]:
    """Let pliant's layers call torchvision's operator."""
    with mock.patch("pliant.nn.deform_conv.deform_conv2d", torchvision.ops.deform_conv2d):
        yield


@torch.no_grad()
def spread_offsets(model: nn.Module, run: Callable[[], object], generator: torch.Generator) -> None:
    """Set the offset branches so that `run` sees offsets with a standard deviation of one pixel."""
    hooks = []

    def scale(branch: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        branch.weight.div_(output.std())  # type: ignore[operator]
        return output / output.std()

    for module in model.modules():
        if isinstance(module, DeformConv2d):
            weight = module.conv_offset.weight
            weight.copy_(torch.randn(weight.shape, generator=generator))
            hooks.append(module.conv_offset.register_forward_hook(scale))
    run()
    for hook in hooks:
        hook.remove()


def _backward(loss: Any) -> None:
    if torch.is_grad_enabled():  # not while offsets are set
        loss.backward()


@dataclass
class NetworkCase:
    """One network at one size of image: `resnet50` or `faster-rcnn`."""

    network: str
    height: int
    width: int

    baseline = "plain"
    threads: ClassVar[int | None] = None

    def __str__(self) -> str:
        return f"{self.network} c3-c5 {self.height}x{self.width} float32"

    @property
    def modes(self) -> tuple[bool, ...]:
        """Return whether training is timed, one entry for each mode: of the detector only its training step."""
        return (True,) if self.network == "faster-rcnn" else (False, True)

    def contenders(self, *, training: bool) -> dict[str, Run]:
        """Return what runs the network, by name."""
        torch.manual_seed(0)
        detector = self.network == "faster-rcnn"
        if detector:
            plain: nn.Module = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        else:
            plain = torchvision.models.resnet50(weights=None)
        deformed = pliant.convert(copy.deepcopy(plain), "c3-c5")
        run = self._detect if detector else self._classify
        deformed.train(training)
        spread_offsets(deformed, run(deformed, training, torch.contiguous_format), torch.Generator().manual_seed(1))
        runs: dict[str, Run] = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            name = "channels_last" if layout == torch.channels_last else "contiguous"
            runs[f"plain {name}"] = run(copy.deepcopy(plain).train(training), training, layout)
            runs[f"pliant {name}"] = run(copy.deepcopy(deformed), training, layout)
        theirs = run(copy.deepcopy(deformed), training, torch.contiguous_format)

        def with_torchvision() -> object:
            with torchvisions_operator():
                return theirs()

        return runs | {"torchvision": with_torchvision}

    def check(self) -> None:
        """Raise unless both operators give the same output of the network."""
        runs = NetworkCase("resnet50", 64, 96).contenders(training=False)
        torch.testing.assert_close(runs["pliant contiguous"](), runs["torchvision"](), atol=1e-3, rtol=1e-3)

    def _classify(self, model: nn.Module, training: bool, layout: torch.memory_format) -> Run:
        model.to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.rand(1, 3, self.height, self.width, generator=torch.Generator().manual_seed(2))
        x = x.contiguous(memory_format=layout)
        if training:
            x = torch.cat([x, x.flip(3)])  # a normalization needs more than one value of a channel

            def step() -> object:
                model.zero_grad()
                return _backward(model(x).square().mean())

            return step

        def forward() -> object:
            with torch.no_grad():
                return model(x)

        return forward

    def _detect(self, model: nn.Module, training: bool, layout: torch.memory_format) -> Run:
        model.to(memory_format=layout)  # type: ignore[call-overload]
        generator = torch.Generator().manual_seed(2)
        image = torch.rand(3, self.height, self.width, generator=generator)
        corners = torch.rand(8, 2, generator=generator) * torch.tensor([self.width, self.height]) / 2
        target = {"boxes": torch.cat([corners, corners + 90], 1), "labels": torch.arange(1, 9)}

        def step() -> object:
            torch.manual_seed(0)  # proposals are drawn at random
            model.zero_grad()
            return _backward(sum(model([image], [target]).values()))

        return step
