# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for pages that pliant writes: Debian's packages chromium and chromium-driver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def installed() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, or None where they are not."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driven browser with an empty profile; without one the test is skipped, and in CI it fails."""
    paths = installed()
    if paths is None and os.environ.get("CI") == "true":
        pytest.fail("CI must have Chromium: apt-get install chromium chromium-driver")
    if paths is None:
        pytest.skip("no Chromium here (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = paths[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    try:
        yield driver
    finally:
        driver.quit()


def set_window(driver: Any, width: int, height: int) -> None:
    """Give the page a window of exactly so many pixels, which may be narrower than a real one can be."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def open_page(driver: Any, page: Path, *, dark: bool = False) -> None:
    """Open a page under a light or dark system, and wait until its script says that it is ready."""
    from selenium.webdriver.support.ui import WebDriverWait

    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page.as_uri())
    ready = "return document.body.dataset.ready === 'true'"
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(ready), f"console: {driver.get_log('browser')}")
