# SPDX-License-Identifier: Apache-2.0
"""RoI pooling on drawn geometries: the loops over samples, and laws that hold for every one."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.pooling.cases import RoIArguments, RoICase
from helpers.pooling.checks import run, runner
from oracles import roi_pool_loops as oracle
from oracles.deform_conv2d_loops import as_float64

laws = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def cases(operator: Any) -> st.SearchStrategy[RoICase]:
    """Draw a problem; its tensors are seeded by the name."""

    def build(seed: int, per_class: int, classes: int, **drawn: Any) -> RoICase:
        plain = operator == "plain"
        extra: dict[str, Any] = {} if plain else {"classes": classes, "group": drawn["group"], "part": drawn["part"]}
        common = {key: value for key, value in drawn.items() if key not in ("group", "part")}
        if not plain:
            common["samples"] = max(common["samples"], 1)
        return RoICase(f"drawn_{seed}", operator, channels=per_class * (1 if plain else classes), **common, **extra)

    return st.builds(
        build, seed=st.integers(0, 2**20), per_class=st.integers(1, 2), classes=st.integers(1, 2),
        images=st.integers(1, 2), size=pairs(1, 7), boxes=st.integers(0, 4), bins=pairs(1, 3),
        samples=st.integers(0, 3), scale=st.sampled_from([0.53, 1.0, 0.125]), gamma=st.sampled_from([0.1, 0.37]),
        group=st.integers(1, 3), part=pairs(1, 3), offsets=st.sampled_from(["random", "none", "far"]),
        modulated=st.booleans(), places=st.sampled_from(["around", "tiny", "dyadic"]),
    )  # fmt: skip


def fine(case: RoICase) -> RoIArguments:
    """Return a case's arguments with all bits of the pixels, offsets and masks in use."""
    g = torch.Generator().manual_seed(int(case.name.rsplit("_", 1)[1]))
    a = case.arguments()

    def jitter(t: Tensor | None) -> Tensor | None:
        return None if t is None else t + 0.01 * torch.randn(t.shape, generator=g, dtype=t.dtype)

    image = jitter(a.input)
    assert image is not None
    return RoIArguments(image, a.boxes, jitter(a.offset), jitter(a.mask))


@laws
@given(st.one_of(cases("plain"), cases("ps")))
def test_output_and_gradients_are_those_of_the_loops(roi_impl: str, case: RoICase) -> None:
    arguments, upstream = fine(case), case.upstream()
    output, gradients = runner(roi_impl)(case, arguments, upstream)
    arrays = [as_float64(t) for t in arguments]
    truth = oracle.forward(case.definition, *arrays, **case.options)
    torch.testing.assert_close(output, torch.from_numpy(truth), **CLOSE)
    true_gradients = oracle.backward(case.definition, as_float64(upstream), *arrays, **case.options)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, torch.from_numpy(true_gradients[name]), **CLOSE, msg=name)


@laws
@given(st.one_of(cases("plain"), cases("ps")))
def test_boxes_do_not_know_one_another(roi_public: str, case: RoICase) -> None:
    arguments = case.arguments()
    together = case.call(arguments, roi_public)
    assert together.shape == (case.boxes, case.channels, *case.bins)
    for r in range(case.boxes):
        alone = RoIArguments(arguments.input, *(None if t is None else t[r : r + 1] for t in arguments[1:]))
        torch.testing.assert_close(case.call(alone, roi_public)[0], together[r], **CLOSE)


@laws
@given(st.one_of(cases("plain"), cases("ps")), st.sampled_from(["input", "mask"]), st.floats(-3, 3))
def test_linear_in_input_and_mask(roi_public: str, case: RoICase, name: str, factor: float) -> None:
    arguments = case.arguments()
    one = getattr(arguments, name)
    if one is None:
        return
    two = torch.randn_like(one)
    mixed = case.call(arguments._replace(**{name: one + factor * two}), roi_public)
    parts = case.call(arguments, roi_public) + factor * case.call(arguments._replace(**{name: two}), roi_public)
    torch.testing.assert_close(mixed, parts, **CLOSE)


@laws
@given(cases("plain"))
def test_moving_a_box_is_moving_all_its_bins(roi_public: str, case: RoICase) -> None:
    """One more in every offset along x is gamma widths of the box, along y gamma heights."""
    arguments = case.arguments()
    if arguments.offset is None:
        return
    offset = arguments.offset.nan_to_num(0, 0, 0).clamp(-3, 3)
    width, height = (arguments.boxes[:, 3:] - arguments.boxes[:, 1:3]).unbind(1)
    step = torch.stack([torch.zeros_like(width), width, height, width, height], 1) * case.gamma
    by_offset, gradients = run(case, arguments._replace(offset=offset + 1), case.upstream(), impl=roi_public)
    moved = arguments._replace(offset=offset, boxes=arguments.boxes + step)
    by_box, box_gradients = run(case, moved, case.upstream(), impl=roi_public)
    if case.places != "dyadic":  # where samples stand on steps
        torch.testing.assert_close(by_offset, by_box, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(gradients["input"], box_gradients["input"], rtol=1e-7, atol=1e-7)
