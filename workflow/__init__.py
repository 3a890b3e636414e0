"""Notebooks as programs: run with parameters, compared, collected, published.

Each notebook is executed once, by Snakemake and papermill, into build/runs/NN_topic/ID. Figures,
checks, tables, reports and the site read that execution. `python -m workflow --help` lists them.
"""
