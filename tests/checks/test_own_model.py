"""The Python of the page "Use your own model" and of README.md runs, on small stand-ins."""

import re
import warnings

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from pipelines import saved

from lib import ConvergenceWarning
from workflow.parameters import ROOT


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


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


def test_the_code_of_the_page_runs_in_its_order(own_folders, tmp_path):
    names = {}
    with warnings.catch_warnings():
        # random networks hold no geodesic worth the name
        warnings.simplefilter("ignore", ConvergenceWarning)
        # no LPIPS on this machine
        warnings.filterwarnings("ignore", "ppl and pdv are of squared errors")
        for block in blocks("site/own-model.md"):
            exec(compile(block, "own-model.md", "exec"), names)
    assert names["result"].frames.shape == (1, 9, 2) and names["round_it"].converged.all()
    assert names["fade"].shape == names["bent"].frames.shape == (1, 5, 1, 8, 8)
    assert names["shown"].shape == (5, 3, 64, 64)
    assert names["same"].settings["prompt"] == "a red fox"
    assert names["table"].method.tolist() == ["lerp", "slerp"]
    assert (tmp_path / "frames-of-pairs" / "table.csv").is_file()


def test_the_code_of_the_readme_runs(capsys):
    for block in blocks("README.md"):
        exec(compile(block, "README.md", "exec"), {})
    assert "tensor([True])" in capsys.readouterr().out
