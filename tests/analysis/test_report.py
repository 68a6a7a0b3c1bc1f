# SPDX-License-Identifier: Apache-2.0
"""The page that explains a network: what stands in the file, and what it does in a real browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.browser import chromium, open_page, set_window
from helpers.detectors import build
from pliant import convert
from pliant.analysis import Report, explain, record_offsets, sampling_points, view_of
from pliant.analysis.compose import stack_of
from pliant.detection import faster_rcnn
from pliant.nn import DeformConv2d, DeformRoIPool

HOSTILE = "<script>document.title='owned'</script>"
IMAGE = (torch.arange(3 * 96 * 128) % 251).reshape(3, 96, 128).to(torch.uint8)
DETECTIONS = {
    "boxes": torch.tensor([[10.0, 12.0, 60.0, 70.0], [70.0, 20.0, 120.0, 90.0]]),
    "labels": torch.tensor([1, 2]),
    "scores": torch.tensor([0.9, 0.75]),
}


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(4)
    options = {"fpn_channels": 16, "roi_pool": "modulated", "head_channels": 24, "min_size": 96}
    model = build(faster_rcnn, 3, deform="c5", **options)
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            nn.init.normal_(module.conv_offset.bias, std=0.7)
        if isinstance(module, DeformRoIPool):
            nn.init.normal_(module.offset_fc[-1].bias, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def report(detector: nn.Module) -> Report:
    options: dict[str, Any] = {"names": [HOSTILE, "cat & dog"], "detections": DETECTIONS, "title": f"a {HOSTILE}"}
    return explain(detector, IMAGE, units=3, saliency=1, budget=10, **options)


def data_of(page: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    return json.loads(text[1])


def test_page_is_one_file_that_names_nothing_outside(report: Report) -> None:
    assert not re.search(r"(src|href)=|url\(|@import|fetch\(|XMLHttp|https?://", report.page)
    assert "default-src 'none'" in report.page
    data = data_of(report.page)
    assert data["detections"][0]["label"] == HOSTILE
    assert report.page.count("<script") == 2 and html.escape(HOSTILE) in report.page
    assert [stack["layers"] for stack in data["stacks"]] == [[3, 2, 1], [3], [2], [1], [0]]
    assert len(data["detections"][0]["bins"]) == 49 and "saliency" not in data["detections"][1]
    assert data["detections"][0]["error"] < 0.1
    effects = data["detections"][0]["effects"]
    row, column = data["detections"][0]["strongest"]
    assert (
        len(effects) == 49 and max(effects) == effects[7 * row + column] == 1 and "effects" not in data["detections"][1]
    )


def test_notebooks_show_the_page_in_a_frame(report: Report) -> None:
    shown = report._repr_html_()
    assert shown.startswith("<iframe ") and html.unescape(shown.split('srcdoc="')[1].split('"')[0]) == report.page


def test_titles_that_look_like_marks_of_the_template_are_text() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), DeformConv2d(2, 2, 3, padding=1))
    page = explain(model, IMAGE, units=0, title="/*DATA*/ /*SCRIPT*/").page
    assert "<h1>/*DATA*/ /*SCRIPT*/</h1>" in page and data_of(page)["title"] == "/*DATA*/ /*SCRIPT*/"


def test_layers_without_room_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch, detector: nn.Module) -> None:
    monkeypatch.setattr("pliant.analysis.report.LAYER_BYTES", 300)
    left = explain(detector, IMAGE, units=0, saliency=0, detections=DETECTIONS)
    assert left.left_out and "body.layer4.1.conv2" not in left.left_out
    assert data_of(left.page)["leftOut"] == list(left.left_out)


def test_any_converted_network_has_a_page() -> None:
    import timm
    import torchvision

    for network in (torchvision.models.resnet18(), timm.create_model("resnet10t")):
        model = convert(network.eval(), "c5", mask_scale=2.0)
        data = data_of(explain(model, IMAGE, units=2).page)
        assert data["layers"] and not data["detections"] and data["fields"]["data"]
        assert data["size"] == [96, 128]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any, report: Report, tmp_path: Path) -> Iterator[Any]:
    """The browser with the page in it; afterwards nothing may stand in the console."""
    report.save(tmp_path / "report.html")
    set_window(browser, 1280, 900)
    browser.get_log("browser")
    open_page(browser, tmp_path / "report.html")
    browser.report = tmp_path / "report.html"
    yield browser
    assert browser.get_log("browser") == []


def pointer(page: Any, y: float, x: float, *, click: bool = False, touch: bool = False) -> None:
    """Move to a place of the picture, given as shares of its sides."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    left, top, width, height = page.execute_script(
        "const b = document.getElementById('photo').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    )
    action = ActionBuilder(page, mouse=PointerInput("touch" if touch else "mouse", "finger" if touch else "hand"))
    action.pointer_action.move_to_location(round(left + x * width), round(top + y * height))
    if click:
        action.pointer_action.pointer_down()
        action.pointer_action.pointer_up()
    action.perform()


def unit(page: Any) -> tuple[int, int]:
    found = page.execute_script("return [document.body.dataset.row, document.body.dataset.column]")
    return int(found[0]), int(found[1])


def text_of(page: Any, name: str) -> str:
    return str(page.execute_script("return document.getElementById(arguments[0]).textContent", name))


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.by import By

    page.find_element(By.ID, "figure").send_keys(*keys)


def test_hover_moves_the_unit_and_click_holds_it(page: Any) -> None:
    pointer(page, 0.1, 0.2)
    assert unit(page) == (0, 0)  # a map of 3 x 4 cells
    pointer(page, 0.9, 0.7)
    assert unit(page) == (2, 2) and "row 2, column 2 of 3 x 4" in text_of(page, "unit")
    pointer(page, 0.9, 0.7, click=True)
    pointer(page, 0.1, 0.1)
    assert unit(page) == (2, 2)  # held
    pointer(page, 0.5, 0.9, click=True)  # goes there, and lets go
    assert unit(page) == (1, 3)
    pointer(page, 0.1, 0.1)
    assert unit(page) == (0, 0)


def test_keys_move_the_unit_and_are_read_out(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    start = unit(page)
    assert start == (1, 2)
    press(page, Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert unit(page) == (0, 1)
    assert "Cell: row 0, column 1 of 3 x 4" in text_of(page, "say")
    press(page, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_LEFT)  # not off the map
    assert unit(page) == (0, 0)
    press(page, Keys.ESCAPE)
    assert page.execute_script("return document.body.dataset.held") == "false"


def test_everything_is_reached_by_tab_in_the_order_of_the_page(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(10):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.execute_script("return document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["theme", "figure", "stack", "points", "plain", "field", "boxes", "effects", "saliency", "BUTTON"]


def test_touch_moves_the_unit(page: Any) -> None:
    pointer(page, 0.9, 0.1, click=True, touch=True)
    assert unit(page) == (2, 0)


def test_another_layer_can_be_chosen_and_samples_are_python_s(page: Any, detector: nn.Module) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    view = view_of(detector, IMAGE)
    fields = record_offsets(view.network, view.input)
    for choice, stack in ((0, stack_of(fields)), (1, fields[-1:]), (4, fields[:1])):
        Select(page.find_element(By.ID, "stack")).select_by_index(choice)
        row, column = unit(page)
        stride = stack[0].output_stride
        points = sampling_points(stack, ((row + 0.5) * stride[0] - 0.5, (column + 0.5) * stride[1] - 0.5))
        drawn = page.execute_script("return follow(false).map((s) => [s.y, s.x, s.weight])")
        shown = torch.tensor(drawn) * torch.tensor([96.0, 128.0, 1.0]) - torch.tensor([0.5, 0.5, 0.0])
        # Offsets are kept to 1/64 of a cell, modulation to 1/255 of its bound: whole weights agree to some percent.
        total = points[:, 2].sum().item()
        assert shown[:, 2].sum().item() == pytest.approx(total, rel=0.02)
        for axis in (0, 1):
            mean = (points[:, axis] * points[:, 2]).sum().item() / total
            found = (shown[:, axis] * shown[:, 2]).sum().item() / shown[:, 2].sum().item()
            assert found == pytest.approx(mean, abs=0.5)
        assert f"{len(drawn)}, " in text_of(page, "unit")
        if len(stack) == 1:
            assert len(drawn) == 9 and "Modulation" in text_of(page, "unit")
            torch.testing.assert_close(shown[:, :2], points[:, :2], rtol=0, atol=stride[0] / 128 + 1e-3)


def test_a_detection_has_bins_and_a_saliency_region_and_its_name_is_text(page: Any) -> None:
    from selenium.webdriver.common.by import By

    first, second = page.find_elements(By.CSS_SELECTOR, "#list button")
    assert first.text == f"{HOSTILE} 0.90" and second.text == "cat & dog 0.75"
    before = page.execute_script("return document.getElementById('drawing').toDataURL()")
    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    region = text_of(page, "region")
    assert region.startswith(f"{HOSTILE}, score 0.9. 49 bins") and "Saliency region: " in region
    assert "It depends most on the bin in row " in region and HOSTILE in text_of(page, "say")
    weighted = page.execute_script("return document.getElementById('drawing').toDataURL()")
    page.find_element(By.ID, "effects").click()
    assert page.execute_script("return document.getElementById('drawing').toDataURL()") not in (before, weighted)
    assert weighted != before
    page.find_element(By.ID, "effects").click()
    assert page.title == f"a {HOSTILE}" and len(page.find_elements(By.TAG_NAME, "script")) == 2
    first.click()
    assert text_of(page, "region") == ""
    pointer(page, 0.5, 0.75)  # over the second box
    assert page.execute_script("return document.body.dataset.detection") == "1"
    assert text_of(page, "region").startswith("cat & dog, score 0.75. 49 bins")


def test_boxes_to_tick_change_the_drawing(page: Any) -> None:
    from selenium.webdriver.common.by import By

    pictures = [page.execute_script("return document.getElementById('drawing').toDataURL()")]
    for name in ("points", "plain", "field", "boxes"):
        page.find_element(By.ID, name).click()
        pictures.append(page.execute_script("return document.getElementById('drawing').toDataURL()"))
    assert len(set(pictures)) == 5


def test_light_and_dark_follow_the_system_and_the_button(page: Any) -> None:
    from selenium.webdriver.common.by import By

    ground = "return getComputedStyle(document.body).backgroundColor"
    assert page.execute_script(ground) == "rgb(255, 255, 255)"
    page.find_element(By.ID, "theme").click()
    assert page.execute_script(ground) == "rgb(20, 22, 26)"
    open_page(page, page.report, dark=True)
    assert page.execute_script(ground) == "rgb(20, 22, 26)"
    assert page.find_element(By.ID, "theme").text == "Light"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    set_window(page, width, 844)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    photo = page.execute_script("return document.getElementById('photo').getBoundingClientRect().width")
    assert photo > width / 2
