"""A headless Chromium for tests of pages: `from browser import chromium, page` brings both."""

import os
import shutil
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")
def chromium():
    """A playwright Browser, one a module; the test is skipped where no browser is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser on PATH: {', '.join(NAMES)} (Debian: apt-get install chromium)")
    flags = list(FLAGS)
    # Chromium's sandbox refuses root
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page of its own context.

    page.refused: what it wanted from elsewhere (stopped); page.complaints: errors and warnings.
    """
    context = chromium.new_context()
    page = context.new_page()
    page.refused = []
    page.complaints = []

    def only_here(route):
        parts = urlsplit(route.request.url)
        if parts.scheme in ("file", "data", "blob", "about") or parts.hostname == "127.0.0.1":
            return route.continue_()
        page.refused.append(route.request.url)
        return route.abort()

    def listen(message):
        if message.type in ("error", "warning"):
            page.complaints.append(message.text)

    context.route("**/*", only_here)
    page.on("console", listen)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url}"))
    yield page
    context.close()
