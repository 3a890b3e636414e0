"""What the sources never do: unpickle, run code that came with a model, or reach the network by a way of their own.

That folders with pickled weights are refused, with the mend, is shown in tests/faults/models.py.
"""

import ast

import nbformat
import pytest

from experiments.figures import ROOT

# file, call → why it may stand there
ALLOWED = {
    ("lib/scores/loading.py", "found.from_pretrained"): "a scheduler is one JSON file",
    (
        "lib/scores/loading_latent.py",
        "CLIPTokenizer.from_pretrained",
    ): "a tokenizer is JSON and text",
    (
        "experiments/evaluation/published.py",
        "torch.load",
    ): "LPIPS's backbone exists as .pth only: its sha256 is compared "
    "before, and weights_only=True takes nothing but tensors",
}
UNPICKLING = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "dill.load",
    "dill.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "pd.read_pickle",
    "pandas.read_pickle",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
}
LOADERS = ("from_pretrained", "from_single_file", "from_ckpt")
# module of the network → the one file that may import it, for what has a checksum or a commit
NETWORK = {
    "pooch": "experiments/data.py",
    "huggingface_hub": "lib/scores/loading.py",
    "httpx": "lib/scores/loading.py",
}
NETWORK |= dict.fromkeys(
    ("requests", "urllib", "urllib3", "http", "socket", "ftplib", "aiohttp", "paramiko", "smtplib"),
    "",
)


def sources():
    """Every source that a user runs: path → syntax."""
    for folder in ("lib", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [
            cell.source
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
        ]
        yield (
            path.relative_to(ROOT).as_posix(),
            "\n".join(line for line in "\n".join(cells).splitlines() if line[:1] not in "%!"),
        )


def complaints(name, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield from (f"{name}:{node.lineno}: {what}" for what in of_call(name, node))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            inside = isinstance(node, ast.ImportFrom) and node.level
            yield from (
                f"{name}:{node.lineno}: imports {module}"
                for module in modules
                if not inside and NETWORK.get(root := module.split(".")[0], name) != name and root
            )


def of_call(name, node):
    called = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    allowed = (name, called) in ALLOWED
    if called in UNPICKLING and not (allowed and given.get("weights_only") == "True"):
        yield f"{called} unpickles"
    if (
        called.rpartition(".")[2] in LOADERS
        and not allowed
        and given.get("use_safetensors") != "True"
    ):
        yield f"{called} without use_safetensors=True"
    for word, only in (
        ("allow_pickle", "False"),
        ("weights_only", "True"),
        ("trust_remote_code", "False"),
    ):
        if given.get(word, only) != only:
            yield f"{word}={given[word]}"


def test_nothing_is_unpickled_and_the_network_has_two_doors():
    found = [complaint for name, text in sources() for complaint in complaints(name, text)]
    assert found == []


def test_every_exception_is_still_needed():
    texts = dict(sources())
    assert [key for key in ALLOWED if f"{key[1]}(" not in texts[key[0]]] == []
    doors = [(module, texts[file]) for module, file in NETWORK.items() if file]
    assert all(
        f"import {module}" in text or f"from {module} import" in text for module, text in doors
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("torch.load(path)", "unpickles"),
        ("torch.load(path, weights_only=True)", "unpickles"),
        ("pickle.loads(raw)", "unpickles"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("np.load(path, allow_pickle=asked)", "allow_pickle=asked"),
        ("UNet2DModel.from_pretrained(folder)", "without use_safetensors"),
        ("pipe.from_single_file(f)", "without"),
        ("load(name, trust_remote_code=True)", "trust_remote_code"),
        ("import requests", "imports requests"),
        ("from urllib.request import urlopen", "imports urllib"),
        ("import pooch", "imports pooch"),
    ],
)
def test_each_rule_can_fail(text, words):
    found = list(complaints("lib/toy.py", text))
    assert len(found) >= 1 and words in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "safetensors.torch.load(raw)",
        "np.load(path)",
        "from .data import locate",
        "import httpxx",
        "kind.from_pretrained(folder, use_safetensors=True)",
    ],
)
def test_what_is_fine(text):
    assert list(complaints("lib/toy.py", text)) == []
