"""What all tests share: no window, no network, one thread, a seeded generator."""

import os
import pickle
import signal
import socket
import sys
import threading

os.environ.setdefault("MPLBACKEND", "Agg")
# before anything imports torch; `pytest -n` has a process a core
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# a shell's background job is born deaf to Ctrl-C
deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
if deaf and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Notebooks first: they take longest, and with `pytest -n 2` one process runs them alone."""
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    """Refuse connections that leave this machine; no earlier download decides what a test sees."""
    connect = socket.socket.connect
    here = ("127.0.0.1", "::1", "localhost")

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in here:
            raise AssertionError(f"a test wanted to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("GEODESICS_CACHE", str(tmp_path_factory.getbasetemp() / "no-downloads"))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    # a test that draws nothing does not wait for matplotlib
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def no_unpickling(monkeypatch):
    """Any attempt to unpickle fails the test."""
    import torch

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)


@pytest.fixture
def drawn(monkeypatch):
    """Forty drawn discs instead of the photographs of hands: fine without them on the machine."""
    import torch

    from experiments import data, hands

    place = torch.arange(hands.SIDE) - hands.SIDE / 2
    radii = torch.linspace(15, 40, 40)[:, None, None]
    discs = 255 * (place[:, None] ** 2 + place**2 < radii**2)
    record = data.Source("drawn-discs", {}, "Apache-2.0", "a test", False, "drawn discs")
    pixels = discs[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    labels = torch.arange(40) // 4

    def photographs(split="train"):
        keep = (torch.arange(40) % 10 == 0) == (split == "test")
        return hands.Photographs(pixels[keep], labels[keep], record)

    monkeypatch.setattr(hands, "photographs", photographs)


@pytest.fixture
def generator():
    """A torch.Generator on the CPU with a fixed seed."""
    import torch

    return torch.Generator().manual_seed(0)
