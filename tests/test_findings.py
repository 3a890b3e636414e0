"""The findings in README.md have the numbers of the committed results."""

import json
from collections.abc import Iterator

import pandas as pd

from workflow.parameters import ROOT

RESULTS = ROOT / "data" / "results"


def headline(number: str) -> dict[str, float]:
    """The record of headline numbers that a notebook publishes with its figures."""
    path = ROOT / "figures" / f"{number}_results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def sphere() -> Iterator[str]:
    found = headline("01")
    assert found["converged"]
    yield f"within {abs(found['dip_error']):.1%}".replace("%", " %")
    yield f"in {found['batches']} score batches"


def crowd() -> Iterator[str]:
    table = pd.read_csv(RESULTS / "03_crowd.csv")
    table = table[(table.angle == 45) & table.turned & table.converged]
    found = table.groupby(["digits", "start"]).size()
    yield f"rotates {found[1, 'line']} of 10"
    yield f"still a geodesic for {found[1000, 'turn']} of 10"
    yield f"the solver finds {found[1000, 'line']}"


def networks() -> Iterator[str]:
    table = pd.read_csv(RESULTS / "04_networks.csv")
    searches = table[table.start == "line"]
    yield f"{searches.turned.sum()} of {len(searches)} searches"
    begun_there = table[table.start == "turn"]
    held = begun_there.turned & begun_there.converged
    yield f"Of {len(held)} that begin at the true rotation, {held.sum()} end in a geodesic"


def photographs() -> Iterator[str]:
    table = pd.read_csv(RESULTS / "06_hands_sets.csv", keep_default_na=False)
    pairs = table.pairs.max()
    table = table[(table.measure == "kid_efficientnet") & (table.baseline == "")]
    kid = table[table.pairs == pairs].set_index("method").estimate
    yield f"On {pairs} pairs"
    yield f"KID {kid['density 0.01']:.2f} against the straight line's {kid['lerp']:.2f}"
    yield f"has {kid['lerp, denoised 0.2']:.2f}"


def movements() -> Iterator[str]:
    found = headline("07")
    stein, straight = (found[f"breaks after degrees, {name}"] for name in ("Stein", "straight"))
    yield f"stays whole for {stein:.0f}° along the Stein geodesic and for {straight:.0f}°"
    found = headline("08")
    energies = [value for name, value in found.items() if name.startswith("energy of the video")]
    yield f"{min(energies):.0f} to {max(energies):.0f} times the energy"


def test_the_numbers_of_the_findings_are_those_of_the_results():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for finding in (sphere, crowd, networks, photographs, movements):
        for words in finding():
            assert words in text, f"README.md should say: {words}"
