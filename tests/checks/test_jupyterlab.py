# ruff: noqa: F811 (fixtures come by import)
"""Notebook 01 in JupyterLab, in a browser: it can be read as committed, and run and played with."""

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
from browser import chromium, page  # noqa: F401
from playwright.sync_api import expect

from workflow.parameters import ROOT, find, smoke

NOTEBOOK = find("01")
# all cells in the page, not only those in view
SETTINGS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}
# folders in which JupyterLab keeps what belongs to a person
OWN = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
    "IPYTHONDIR",
)


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def small_copy():
    """Notebook 01 with its small parameters, never executed."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(book):
        cell.outputs = []
        cell.execution_count = None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in smoke(NOTEBOOK).items():
                pattern = re.compile(rf"^{name} = .*$", re.MULTILINE)
                cell.source = pattern.sub(f"{name} = {value!r}", cell.source)
    return book


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A copy of the code and notebook 01, so that the checkout stays as it is."""
    desk = tmp_path_factory.mktemp("desk")
    for room in ("lib", "experiments"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, desk / room, ignore=ignore)
    (desk / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, desk / "notebooks" / "committed.ipynb")
    nbformat.write(small_copy(), desk / "notebooks" / "small.ipynb")
    for name, values in SETTINGS.items():
        settings = desk / "settings" / f"{name}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(values))
    return desk


@pytest.fixture(scope="module")
def lab(chromium, desk):
    """address(notebook) in a running JupyterLab; server and kernels end with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **{name: str(desk / name.lower()) for name in OWN},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(desk),
        "JUPYTERLAB_SETTINGS_DIR": str(desk / "settings"),
        "JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter"),
    }
    token = secrets.token_hex(16)
    command = [
        *(sys.executable, "-m", "jupyterlab", str(desk / "notebooks"), "--no-browser"),
        *("--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        f"--IdentityProvider.token={token}",
    ]
    log = desk / "log.txt"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            env=environment,
            cwd=desk,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    root = f"http://127.0.0.1:{port}"
    try:
        wait_for(server, f"{root}/api?token={token}", log)
        # a workspace each: JupyterLab would open again what the last page had open
        yield lambda name: f"{root}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}"
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
    """Terminate the server, which ends its kernels; what is left after ten seconds is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        _, left = psutil.wait_procs([psutil.Process(server.pid), *family], timeout=10)
        for process in left:
            process.kill()
    server.wait(10)


def opened(page, address):
    """The open notebook, once all of its cells are there."""
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.goto(address)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    count = len(nbformat.read(NOTEBOOK, as_version=4).cells)
    expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(count, timeout=30_000)
    return page.locator(".jp-Notebook")


def test_the_committed_notebook_can_be_read_without_running_it(lab, page):
    notebook = opened(page, lab("committed"))
    cells = code_cells(nbformat.read(NOTEBOOK, as_version=4))
    outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
    figures = sum("image/png" in data for data in outputs)
    pictures = notebook.locator(".jp-RenderedImage img")
    expect(pictures).to_have_count(figures, timeout=30_000)
    equations = notebook.locator("mjx-container, .MathJax")
    expect(equations.nth(20)).to_be_attached(timeout=30_000)
    assert notebook.locator("mjx-merror").count() == 0
    assert notebook.get_by_text("Error displaying widget").count() == 0
    assert page.refused == []


def test_run_to_the_end_it_can_be_played_with(lab, page):
    notebook = opened(page, lab("small"))
    prompts = notebook.locator(".jp-CodeCell .jp-InputPrompt")
    run_all_cells(page, prompts.last)
    # some 40 s of one core
    expect(prompts.filter(has_text="*")).to_have_count(0, timeout=400_000)
    for kind in ("error", "stderr"):
        bad = notebook.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']")
        assert bad.all_inner_texts() == []
    count = len(code_cells(small_copy()))
    assert prompts.all_inner_texts() == [f"[{number}]:" for number in range(1, count + 1)]

    explorer = notebook.locator(".widget-vbox", has=page.locator(".widget-image"))
    expect(explorer).to_have_count(1)
    picture = explorer.locator("img")
    sliders = explorer.get_by_role("slider")
    expect(sliders).to_have_count(2)
    for slider in sliders.all():
        before = picture.get_attribute("src")
        slider.press("ArrowLeft")
        expect(picture).not_to_have_attribute("src", before)
    assert page.refused == []


def run_all_cells(page, last):
    """Press Run, Run All Cells until the last cell is queued: JupyterLab may still be starting."""
    indicator = page.locator(".jp-Notebook-ExecutionIndicator")
    expect(indicator).to_have_attribute("data-status", "idle", timeout=60_000)
    for _ in range(4):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(AssertionError):
            return expect(last).not_to_have_text("[ ]:", timeout=15_000)
    pytest.fail("Run All Cells queued no cell")
