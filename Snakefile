# Each notebook is executed once; figures, checks, tables, reports and the site read that execution.
# `python -m workflow` checks parameters, writes the wanted runs into a configuration, and calls this.
import json
import os
import sys

sys.path.insert(0, workflow.basedir)
from workflow.parameters import NOTEBOOKS, ROOT, cells_digest, notebooks

# Snakemake keeps its records beside the runs: who deletes build/ deletes both
workdir: "build"

# {"03_rotated_digits/default": {}, "03_rotated_digits/3fa9…": {"sigma": 0.5}}
RUNS = config.get("runs") or {f"{path.stem}/default": {} for path in notebooks()}
SOURCES = [
    os.path.relpath(path, ROOT / "build")
    for pattern in ("lib/**/*.py", "experiments/**/*.py", "data/registry.toml", "requirements.txt")
    for path in sorted(ROOT.glob(pattern))
]


# Results of other notebooks that a notebook reads
READ_BY = {
    "00": [
        "figures/01_graph_of_log_density.npz",
        "figures/03_one_digit.npz",
        "figures/06_two_hands.npz",
    ],
    "04": ["data/results/03_*"],
    "10": ["data/results/0[3-8]_*", "figures/09_sphere.csv"],
}


def given(wildcards):
    return RUNS[f"{wildcards.notebook}/{wildcards.id}"]


def committed_results(wildcards):
    """Tables that a notebook reads, unless it is run to make them."""
    if given(wildcards).get("compute"):
        return []
    number = wildcards.notebook[:2]
    patterns = [f"data/results/{number}_*", *READ_BY.get(number, [])]
    found = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return [os.path.relpath(path, ROOT / "build") for path in found]


rule all:
    input:
        expand("runs/{run}/provenance.json", run=RUNS),


rule run:
    input:
        SOURCES,
        committed_results,
        # a changed cell is seen by its checksum below; a new output alone repeats nothing
        notebook=ancient("../notebooks/{notebook}.ipynb"),
    output:
        "runs/{notebook}/{id}/notebook.ipynb",
        directory("runs/{notebook}/{id}/figures"),
        "runs/{notebook}/{id}/provenance.json",
    params:
        given=lambda wildcards: json.dumps(given(wildcards)),
        cells=lambda wildcards: cells_digest(NOTEBOOKS / f"{wildcards.notebook}.ipynb"),
        data=os.environ.get("GEODESICS_DATA", ""),
        python=sys.executable,
        root=str(ROOT),
    threads: 1
    resources:
        gpu=lambda wildcards: int(str(given(wildcards).get("device", "")).startswith("cuda")),
    shell:
        # exec: no shell stands between Snakemake and the notebook, which ends when Snakemake does
        "cd {params.root:q} && exec {params.python:q} -m workflow.execute {wildcards.notebook}"
        " --given {params.given:q} --threads {threads}"
