"""What all tests share: no window, no network, few threads, a seeded generator."""

import os
import pickle
import signal
import socket
import threading
import tomllib

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from experiments import data, hands
from lib.scores import loading

torch.set_num_threads(min(2, torch.get_num_threads()))
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job is born deaf to Ctrl-C


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    """Refuse connections that leave this machine, and keep an earlier download from deciding what a test sees."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test wanted to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("GEODESICS_CACHE", str(tmp_path_factory.getbasetemp() / "no-downloads"))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def no_unpickling(monkeypatch):
    """Any attempt to unpickle fails the test."""

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)


@pytest.fixture
def drawn(monkeypatch):
    """Forty drawn discs instead of the photographs of hands: fine without them on the machine."""
    place = torch.arange(hands.SIDE) - hands.SIDE / 2
    radii = torch.linspace(15, 40, 40)[:, None, None]
    discs = 255 * (place[:, None] ** 2 + place**2 < radii**2)
    record = data.Source("drawn-discs", {}, "Apache-2.0", "a test", False, "drawn discs")
    pixels, labels = discs[:, None].expand(-1, 3, -1, -1).to(torch.uint8), torch.arange(40) // 4

    def photographs(split="train"):
        keep = (torch.arange(40) % 10 == 0) == (split == "test")
        return hands.Photographs(pixels[keep], labels[keep], record)

    monkeypatch.setattr(hands, "photographs", photographs)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """paste(lines) registers them as in data/registry.toml; the bundled folders then lie below tmp_path."""

    def paste(lines):
        entries = data.registry() | tomllib.loads(lines)
        monkeypatch.setattr(data, "REGISTRY", tmp_path / "registry.toml")
        monkeypatch.setattr(data, "registry", lambda: entries)
        (tmp_path / "registry.toml").write_text(lines, encoding="utf-8")
        monkeypatch.setattr(loading, "DATA", tmp_path)
        return entries

    return paste


@pytest.fixture
def generator():
    """A torch.Generator on the CPU with a fixed seed."""
    return torch.Generator().manual_seed(0)
