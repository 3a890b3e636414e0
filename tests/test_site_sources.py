"""What makes the site: captions, links and citations for plain notebooks, docstrings, README's sections, code on its pages."""

import json
import re
import shlex
import warnings

import pytest
import torch
import typer.main
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from pipelines import saved

from experiments.figures import ROOT
from lib import ConvergenceWarning
from lib.runs import __main__ as runs
from lib.runs import find, notebooks, parse

SITE = ROOT / "site"
NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notebooks()}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE / "extensions"))


def markdown(text):
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def picture(source):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": ["kept"]},
        "outputs": [{"data": {"image/png": ""}}],
    }


def test_there_is_a_caption_for_each_figure_and_no_other():
    import captions

    committed = {
        path.stem for ending in ("png", "gif") for path in (ROOT / "figures").glob(f"*.{ending}")
    }
    drawn = {name for book in NOTEBOOKS.values() for name in captions.numbered(book, 0)}
    assert set(captions.captions()) == committed | drawn
    with pytest.raises(ValueError, match="no caption for the figure 01_new: look at it"):
        captions.captions()["01_new"]


def test_a_captions_first_sentence_can_be_read_aloud():
    import captions

    for name, caption in captions.captions().items():
        first = captions.first_sentence(caption)
        assert (
            first.endswith(".") and 4 <= len(first) <= 140 and not re.search(r"[$\\`*{}]", first)
        ), name


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_picture_of_a_notebook_is_a_figure_of_its_folder(name):
    import captions

    shown = [
        cell
        for cell in NOTEBOOKS[name]["cells"]
        if cell["cell_type"] == "code"
        and any(
            kind.startswith("image/")
            for output in cell["outputs"]
            for kind in output.get("data", {})
        )
    ]
    found = [captions.figure_of(cell) for cell in shown]
    assert found and None not in found and all(figure.startswith(name[:2]) for figure in found)


def test_a_picture_gets_anchor_number_caption_and_alternative_text_and_its_code_is_folded():
    import captions

    cells = [
        picture('figures.save(figure, "07_one", x)'),
        markdown("then"),
        picture('figures.save(figure, "07_two", x)'),
    ]
    captions.caption_cells({"cells": cells}, 7, {"07_one": "One. Left: $x$.", "07_two": "Two."})
    assert cells[0]["metadata"] == {
        "tags": ["kept", "hide-input"],
        "mystnb": {
            "image": {"alt": "One."},
            "figure": {"name": "fig-07_one", "caption": "**Figure 7.1.** One. Left: $x$."},
        },
    }
    assert cells[2]["metadata"]["mystnb"]["figure"]["caption"] == "**Figure 7.2.** Two."


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("see notebook 02.", "see [notebook 02](02_b.ipynb)."),
        ("Notebooks 01, 02 and 03", "Notebooks 01, [02](02_b.ipynb) and [03](03_c.ipynb)"),
        ("notebook 01 itself", "notebook 01 itself"),
        ("notebook 77", "notebook 77"),
    ],
)
def test_mentions_of_other_notebooks_become_links(text, linked):
    import mentions

    assert (
        mentions.link_notebooks(
            text, {"01": "01_a.ipynb", "02": "02_b.ipynb", "03": "03_c.ipynb"}, own="01"
        )
        == linked
    )


def test_the_first_mention_of_a_work_is_cited_outside_code_formulas_links_and_headings():
    import mentions

    book = {"cells": [markdown("# Ho\n`Ho` $Ho$ [Ho](x) and Ho's"), markdown("Ho again")]}
    unseen = {"ho2021": re.compile("Ho")}
    for cell in book["cells"]:
        cell["source"] = mentions.running_text(
            cell["source"], lambda text: mentions.cite(text, unseen)
        )
    assert [cell["source"] for cell in book["cells"]] == [
        "# Ho\n`Ho` $Ho$ [Ho](x) and Ho {cite:p}`ho2021`'s",
        "Ho again",
    ]


def test_each_work_with_mentions_is_mentioned():
    import mentions

    prose = "\n".join(
        "".join(cell["source"])
        for book in NOTEBOOKS.values()
        for cell in book["cells"]
        if cell["cell_type"] == "markdown"
    )
    idle = [key for key, pattern in mentions.works().items() if not pattern.search(prose)]
    assert idle == [], (
        "no notebook names these in the words of their `mentions` in site/references.bib: mend or drop the field"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x (n, *event) of `f(x)`", r"x (n, \*event) of ``f(x)``"),
        ("|v|, sigma_ and a_b", r"\|v\|, sigma\_ and a_b"),
        ("5` wide", r"5\` wide"),
    ],
)
def test_docstrings_are_shown_as_written(text, shown):
    import docstrings

    assert docstrings.plain(text) == shown


def test_each_parameter_and_error_of_a_docstring_gets_a_line():
    import docstrings

    text = "lam: weight (≥ 0). alpha, T: powers; other: no parameter. ValueError or TypeError: bad input."
    assert [
        docstrings.item(part, {"lam", "alpha", "T"})
        for part in docstrings.items(text, {"lam", "alpha", "T"})
    ] == [
        "* **lam**: weight (≥ 0).",
        "* **alpha, T**: powers; other: no parameter.",
        "* **ValueError or TypeError**: bad input.",
    ]


def test_a_section_of_the_readme_keeps_links_that_the_site_can_follow(tmp_path, monkeypatch):
    import readme

    text = "[n](notebooks/01_a.ipynb) [w](https://x.org) [d](data/x) ![i](a.png)\n\n### a"
    (tmp_path / "README.md").write_text(f"# T\n## A\n{text}\n## B\nno")
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    assert (
        readme.section("A") == "[n](notebooks/01_a.ipynb) [w](https://x.org) d ![i](a.png)\n\n### a"
    )
    with pytest.raises(ValueError, match="no section '## C'; mend"):
        readme.section("C")


def test_the_mirror_copies_what_changed_and_drops_what_is_gone(tmp_path, monkeypatch):
    import sources

    (tmp_path / "from").mkdir()
    monkeypatch.setattr(sources, "NOTEBOOKS", tmp_path / "from")
    monkeypatch.setattr(sources, "MIRROR", tmp_path / "to")
    (tmp_path / "from" / "01_a.ipynb").write_text("one")
    (tmp_path / "from" / "02_b.ipynb").write_text("two")
    sources.mirror(None, None)
    before = (tmp_path / "to" / "01_a.ipynb").stat().st_mtime_ns
    (tmp_path / "from" / "02_b.ipynb").rename(tmp_path / "from" / "03_c.ipynb")
    sources.mirror(None, None)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["01_a.ipynb", "03_c.ipynb"]
    assert (tmp_path / "to" / "01_a.ipynb").stat().st_mtime_ns == before


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```",
        (SITE / page).read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    """What the page calls my-…, small: images, a DDPM, a Stable Diffusion, a pair."""
    monkeypatch.chdir(tmp_path)
    for folder in ("my-images", "my-pairs", "my-ddpm"):
        (tmp_path / folder).mkdir()
    for k in range(3):
        Image.new("L", (40, 30), 90 * k).save(tmp_path / "my-images" / f"{k}.png")
    for k, colour in enumerate(("orange", "grey")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "my-pairs" / f"animals_{k}.png")
    (tmp_path / "my-pairs" / "animals.txt").write_text("a red fox\na grey wolf\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
    network.save_pretrained(tmp_path / "my-ddpm")
    DDPMScheduler().save_pretrained(tmp_path / "my-ddpm")
    saved(tmp_path / "my-stable-diffusion")


def test_the_code_of_use_your_own_model_runs_in_its_order(own_folders, tmp_path, capsys):
    names, code = {}, blocks("own-model.md", "python")
    assert len(code) >= 7
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # random networks hold no geodesic worth the name
        warnings.filterwarnings(
            "ignore", "ppl and pdv are of squared errors"
        )  # no LPIPS on this machine
        for block in code:
            exec(compile(block, "own-model.md", "exec"), names)
    assert names["result"].frames.shape == (1, 9, 2) and names["round_it"].converged.all()
    assert names["fade"].shape == names["bent"].frames.shape == (1, 5, 1, 8, 8)
    assert names["shown"].shape == (5, 3, 64, 64) and names["table"].method.tolist() == [
        "lerp",
        "slerp",
    ]
    assert (
        tmp_path / "frames-of-pairs" / "table.csv"
    ).is_file() and "azeglio2025" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [line for block in blocks("own-model.md", "sh") for line in block.splitlines()]
)
def test_the_commands_of_use_your_own_model_are_accepted(line, own_folders):
    python, flag, module, name, *arguments = shlex.split(line)
    assert (python, flag, module) == (".venv/bin/python", "-m", "lib.runs")
    command = typer.main.get_command(runs.app).commands[name]
    context = command.make_context(name, arguments)
    if name == "run":
        assert parse(find(context.params["name"]), context.params["assignments"]) == {
            "lam": 10.0,
            "points": 65,
        }
