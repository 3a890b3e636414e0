"""A headless Chromium of this machine for tests of pages: `from browser import chromium, page` brings both fixtures."""

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
HERE = ("127.0.0.1", "localhost", "::1")


def executable() -> str | None:
    """The first browser found on PATH, None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def local(url: str) -> bool:
    """Whether a request for url stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in HERE


@pytest.fixture(scope="module")
def chromium():
    """A playwright Browser, one a module; the test is skipped where no browser is installed."""
    found = executable()
    if found is None:
        pytest.skip(
            f"no browser on this machine: looked on PATH for {', '.join(NAMES)} (Debian: apt-get install chromium)"
        )
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, headless=True, args=FLAGS + root
        )
        yield browser
        browser.close()


class Refused(list):
    """Addresses that a page asked for outside this machine; each request was stopped."""

    def __call__(self, route):
        if local(route.request.url):
            return route.continue_()
        self.append(route.request.url)
        return route.abort()


@pytest.fixture
def page(chromium):
    """A page of its own context; page.refused: what it wanted from elsewhere (stopped), page.complaints: errors and warnings."""
    context = chromium.new_context()
    page = context.new_page()
    page.refused, page.complaints = Refused(), []
    context.route("**/*", page.refused)
    page.on(
        "console",
        lambda said: (
            page.complaints.append(said.text) if said.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url}"))
    yield page
    context.close()
