"""Prefect's pages in headless Chromium: where a form's fields are, and pictures of what a person would see."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline_factory import REPOSITORY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
PICTURES = REPOSITORY / "test-artefacts"
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_PROPERTY = (
    "xpath=.//div[contains(concat(' ', @class, ' '), ' schema-form-property ') and "
    "./div[contains(@class, 'p-label__header')]//span[contains(@class, 'schema-form-property__label') and "
    "normalize-space()='{}']]"
)


@contextmanager
def open_page(size=(1280, 900)):
    """Open an empty page in Chromium, and list the hosts that it asks; skip where there is no Chromium."""
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(_ARGUMENTS))
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme="light")
        page.set_default_timeout(90_000)
        page.hosts = set()
        page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
        try:
            yield page
        finally:
            browser.close()


def picture(page, name, **options):
    """Keep a picture of a page."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=str(path), **options)
    return path


def field(page, *labels):
    """Find a field of the form by the labels of the sections around it and its own."""
    found = page.locator("form")
    for label in labels:
        found = found.locator(_PROPERTY.format(f"{label} (Optional)"))
    return found


def fill(page, value, *labels):
    """Write values into the inputs of a field, one after the other."""
    inputs = field(page, *labels).locator("input, textarea")
    for number, text in enumerate(value if isinstance(value, list) else [value]):
        inputs.nth(number).fill(str(text))


def choose(page, option, *labels):
    """Choose from a drop-down, by the keyboard: without a window that has the focus, a click closes what it opened."""
    control = field(page, *labels).locator("button.p-select-button__control")
    listed = page.locator(".p-select-option", has_text=option).first
    for _ in range(5):
        control.press("Space")
        page.wait_for_timeout(500)
        if listed.is_visible():
            break
    listed.click()


def open_form(page, up, deployment):
    """Open a deployment's form, and wait until its fields are there."""
    page.goto(f"{up.said['ui']}/deployments/deployment/{up.deployment(deployment)['id']}/run")
    page.get_by_role("button", name="Submit").wait_for()
    page.locator("form .schema-form-property").first.wait_for()
