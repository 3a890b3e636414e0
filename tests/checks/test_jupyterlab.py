"""Notebook 01 in JupyterLab itself, in a browser: as committed it can be read, run from top to bottom it can be played with."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import psutil
import pytest
from browser import chromium, page  # noqa: F401  fixtures
from playwright.sync_api import expect

from experiments.figures import ROOT
from workflow.parameters import find, smoke

NOTEBOOK = find("01")
WHOLE = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}
}  # all cells in the page, not only those in view


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def small_copy():
    """Notebook 01 with its small parameters, never executed."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code(book):
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in smoke(NOTEBOOK).items():
                cell.source = re.sub(
                    rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE
                )
    return book


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A copy of lib and notebook 01, so that nothing a person does in JupyterLab reaches the checkout."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "lib", desk / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (desk / "notebooks").mkdir()  # the kernel finds lib there, on its PYTHONPATH
    shutil.copy(NOTEBOOK, desk / "notebooks" / "committed.ipynb")
    nbformat.write(small_copy(), desk / "notebooks" / "small.ipynb")
    for name, values in WHOLE.items():
        settings = desk / "settings" / f"{name}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(values))
    return desk


@pytest.fixture(scope="module")
def lab(chromium, desk):  # noqa: F811
    """address(notebook) in a running JupyterLab that knows no settings but its own; server and kernels end with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    environment = {
        **os.environ,
        **{name: str(desk / name.lower()) for name in own},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(desk),
        "JUPYTERLAB_SETTINGS_DIR": str(desk / "settings"),
        "JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter"),
    }
    token = secrets.token_hex(16)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        str(desk / "notebooks"),
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
    ]
    with (desk / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=desk, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_for(server, f"http://127.0.0.1:{port}/api?token={token}", desk / "log.txt")
        # a workspace each: JupyterLab would open again what the last page had open
        yield (
            lambda name: (
                f"http://127.0.0.1:{port}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}"
            )
        )
    finally:
        end(server)


def wait_for(server, address, log, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def end(server):
    """Terminate the server, which ends its kernels; whatever is left after ten seconds is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        _, left = psutil.wait_procs([psutil.Process(server.pid), *family], timeout=10)
        for process in left:
            process.kill()
    server.wait(10)


def opened(page, address):  # noqa: F811
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.goto(address)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(
        len(nbformat.read(NOTEBOOK, as_version=4).cells), timeout=30_000
    )
    return page.locator(".jp-Notebook")


def test_the_committed_notebook_can_be_read_without_running_it(lab, page):  # noqa: F811
    notebook = opened(page, lab("committed"))
    outputs = [
        output for cell in code(nbformat.read(NOTEBOOK, as_version=4)) for output in cell.outputs
    ]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert figures >= 7 and not any(
        "application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs
    )
    expect(notebook.locator(".jp-RenderedImage img")).to_have_count(figures, timeout=30_000)
    expect(notebook.locator("mjx-container, .MathJax").nth(20)).to_be_attached(timeout=30_000)
    assert (
        notebook.locator("mjx-merror").count() == 0
        and notebook.get_by_text("Error displaying widget").count() == 0
    )
    assert page.refused == []


def test_run_to_the_end_it_can_be_played_with(lab, page, desk):  # noqa: F811
    notebook = opened(page, lab("small"))
    cells, prompts = len(code(small_copy())), notebook.locator(".jp-CodeCell .jp-InputPrompt")
    run_all_cells(page, prompts.last)
    expect(prompts.filter(has_text="*")).to_have_count(0, timeout=400_000)  # some 40 s of one core
    bad = ", ".join(
        f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("error", "stderr")
    )
    assert notebook.locator(bad).all_inner_texts() == []
    assert prompts.all_inner_texts() == [f"[{count}]:" for count in range(1, cells + 1)]

    explorer = notebook.locator(".widget-vbox", has=page.locator(".widget-image"))
    expect(explorer).to_have_count(1)
    sliders, words, picture = (
        explorer.get_by_role("slider"),
        explorer.locator(".widget-html-content"),
        explorer.locator("img"),
    )
    expect(sliders).to_have_count(2)
    expect(explorer.locator(".widget-hslider .widget-label")).to_have_text(["lam", "place on path"])
    for slider in sliders.all():
        before, shown = words.inner_text(), pixels(picture)
        slider.press("ArrowLeft")
        expect(words).not_to_have_text(before)
        page.wait_for_function(
            "([img, old]) => img.complete && img.naturalWidth && img.src != old",
            arg=[picture.element_handle(), shown[0]],
        )
        assert pixels(picture)[1] != shown[1]
    assert re.fullmatch(
        r"lam = \S+ · place 0\.\d\d · log p = -\S+ · distance from the great circle = 0\.\S+",
        words.inner_text(),
    )

    assert page.refused == []


def run_all_cells(page, last):  # noqa: F811
    """Press Run, Run All Cells until the last cell is queued: a JupyterLab that still starts may not listen."""
    expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
        "data-status", "idle", timeout=60_000
    )
    for _ in range(4):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(AssertionError):
            return expect(last).not_to_have_text("[ ]:", timeout=15_000)
    pytest.fail("Run All Cells queued no cell")


def pixels(picture):
    """Address of the picture and what it shows, as the browser has it."""
    draw = """img => { const c = document.createElement('canvas'); [c.width, c.height] = [img.naturalWidth, img.naturalHeight];
              c.getContext('2d').drawImage(img, 0, 0); return [img.src, c.toDataURL()]; }"""
    return picture.evaluate(draw)
