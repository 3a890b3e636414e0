"""Evaluation protocols: each definition by hand, layouts of folders, networks, bad input."""

import hashlib
import io
import json
import statistics
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from pipelines import pipeline
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from typer.testing import CliRunner

from experiments import evaluate as command
from experiments.evaluate import evaluate_folder
from experiments.evaluation import fid, inception, mse
from experiments.evaluation.frame_folders import find_frames
from experiments.evaluation.inception import Inception, frechet_of_samples, load_inception
from experiments.evaluation.protocols import PROTOCOLS
from experiments.pairs import Pairs, run_pairs
from lib.scores import PipelineScore

# Grey levels of frames of constant colour, in fifths: steps 1, 2, 1 and 2, 1, 1
PATHS = {"a": (0, 1, 3, 4), "b": (1, 3, 4, 5)}


def difference(a, b):
    """A stub of LPIPS that can be computed on paper."""
    return (a - b).abs().flatten(1).mean(1)


class Colour:
    """A stub of FID's network: one feature, the mean colour."""

    def __init__(self, name="inception, pytorch-fid"):
        self.name = name

    def __call__(self, images):
        return images.flatten(1).mean(1, keepdim=True)


def write_frames(place, fifths=(0, 1, 3, 4), size=(64, 64), names="{}.png"):
    place.mkdir(parents=True, exist_ok=True)
    for i, level in enumerate(fifths):
        Image.new("RGB", size, (51 * level,) * 3).save(place / names.format(i))
    return place


@pytest.fixture
def folder(tmp_path):
    """Two pairs by two methods, one of which stays where it begins."""
    root = tmp_path / "frames of methods"
    for pair, path in PATHS.items():
        write_frames(root / "lerp" / pair, path)
        write_frames(root / "still" / pair, [path[0]] * 4)
    return root


def measured(*arguments, **settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no frames of", UserWarning)
        return evaluate_folder(*arguments, **{"distance": difference, "draws": 10} | settings)


def numbers(evaluation, method="lerp"):
    rows = evaluation.summary[evaluation.summary["method"] == method]
    return dict(zip(rows["measure"], rows["estimate"], strict=True))


# definitions: the steps of both pairs have the sum 4/5, the sum of squares 6/25, the maximum 2/5

SUM = 4 / 5
SQUARES = 6 / 25
VARIANCE = SQUARES / 3 - (SUM / 3) ** 2


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("ours", {"ppl": SUM, "pdv": VARIANCE**0.5, "largest_step": 2 / 5, "motion": 0}),
        ("diffmorpher", {"ppl": SUM, "pdv": VARIANCE}),
        ("freemorph", {"lpips": 2 * SUM, "ppl": 25 * 2 * SUM}),
        ("flowmorph", {"lpips_sum": SUM, "ppl_sum": 3 * SQUARES}),
        ("gfm", {"ppl": SUM, "pdv": VARIANCE**0.5}),
    ],
)
def test_numbers_from_the_distances_of_adjacent_frames(folder, protocol, expected):
    evaluation = measured(folder, protocol, features=Colour())
    moving, still = numbers(evaluation), numbers(evaluation, "still")
    assert {name: moving[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert {name: still[name] for name in expected} == dict.fromkeys(expected, 0.0)
    for name in expected:
        rows = evaluation.table[evaluation.table["measure"] == name]
        assert rows["method"].tolist() == ["lerp", "lerp", "still", "still"]
        assert rows["pair"].tolist() == ["a", "b", "a", "b"]
        assert rows["source"].str.len().gt(5).all()
        if name == "motion":
            continue
        assert set(rows["protocol"]) == {f"{protocol}, with difference"}
        assert rows["definition"].str.contains("difference of adjacent frames").all()


def test_the_page_of_definitions_is_that_of_the_code():
    page = (Path(__file__).parent.parent / "site" / "protocols.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines()]
    written = {tuple(row[:2]): row[2] for row in cells if len(row) == 3}
    for protocol in PROTOCOLS.values():
        for measure in protocol.measures:
            definition = measure.definition.partition("{inputs}")[0]
            assert written[protocol.name, measure.name].startswith(definition)


def frechet(x, y):
    """Of numbers: (m − m')² + (s − s')²."""
    means = statistics.mean(x) - statistics.mean(y)
    return means**2 + (statistics.stdev(x) - statistics.stdev(y)) ** 2


INNER = [0.2, 0.6, 0.6, 0.8]
ENDS = [0.0, 0.8, 0.2, 1.0]


@pytest.mark.parametrize(
    ("protocol", "measure", "expected"),
    [
        # pair a: (√0.08 − √0.32)² = 0.08; pair b: 0.1² + (√0.02 − √0.32)² = 0.19
        ("freemorph", "fid", (0.08 + 0.19) / 2),
        ("gfm", "fid", frechet(INNER, ENDS)),
        ("flowmorph", "fid_mean", frechet(INNER + ENDS, [0.0, 0.0, 1.0])),
    ],
)
def test_frechet_distances_of_inner_frames_of_pairs_and_of_all(
    folder, tmp_path, protocol, measure, expected
):
    references = None
    if protocol == "flowmorph":
        references = write_frames(tmp_path / "real", (0, 0, 5))
    colour = Colour(next(m for m in PROTOCOLS[protocol].measures if m.name == measure).network)
    evaluation = measured(folder, protocol, features=colour, references=references)
    assert numbers(evaluation)[measure] == pytest.approx(expected, rel=1e-5)
    assert evaluation.left_out == {}
    row = evaluation.summary.query("method == 'lerp' and measure == @measure").iloc[0]
    assert row["protocol"] == protocol
    assert row["low"] <= row["estimate"] <= row["high"] and row["pairs"] == 2


def kernel_distance(x, y):
    """Unbiased, of numbers: kernel (x·y/m + 1)³, m the mean square of y."""
    m = statistics.mean(b * b for b in y)

    def mean(a, b, own):
        values = [
            (u * v / m + 1) ** 3
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (own and i == j)
        ]
        return statistics.mean(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_the_kernel_distance_from_the_references(folder, tmp_path):
    references = write_frames(tmp_path / "real", (0, 2, 5))
    colour = Colour("efficientnet-lite0")
    evaluation = measured(folder, "ours", features=colour, references=references)
    row = evaluation.summary.query("method == 'lerp' and measure == 'kid_efficientnet'").iloc[0]
    assert row["estimate"] == pytest.approx(kernel_distance(INNER, [0.0, 0.4, 1.0]), rel=1e-4)
    assert row["low"] <= row["estimate"] <= row["high"] and row["protocol"] == "ours"
    assert "--references" in measured(folder, "ours").left_out["kid_efficientnet"]


def test_the_frechet_distance_of_two_random_frames(folder, tmp_path):
    """Whatever is drawn of paths that stand still, it is the start of each pair twice."""
    starts = [0.0, 0.0, 0.2, 0.2]
    evaluation = measured(folder, "diffmorpher", features=Colour())
    assert numbers(evaluation, "still")["fid"] == pytest.approx(0, abs=1e-9)
    possible = [
        frechet([*two_of_a, *two_of_b], ENDS)
        for two_of_a in ((0.0, 0.2), (0.0, 0.6), (0.0, 0.8), (0.2, 0.6), (0.2, 0.8), (0.6, 0.8))
        for two_of_b in ((0.2, 0.6), (0.2, 0.8), (0.2, 1.0), (0.6, 0.8), (0.6, 1.0), (0.8, 1.0))
    ]
    found = numbers(evaluation)["fid"]
    assert min(possible) < found < max(possible)
    assert abs(found - statistics.mean(possible)) < 4 * statistics.stdev(possible) / 10**0.5
    assert found == numbers(measured(folder, "diffmorpher", features=Colour()))["fid"]
    inputs = write_frames(tmp_path / "inputs", (0, 5))
    given = measured(folder, "diffmorpher", features=Colour(), references=inputs)
    assert numbers(given, "still")["fid"] == pytest.approx(frechet(starts, [0.0, 1.0]), rel=1e-5)
    assert "against the references" in given.table.query("measure == 'fid'")["definition"].iloc[0]


@pytest.mark.parametrize(("n", "m", "k"), [(7, 5, 20), (40, 30, 4)])
def test_the_frechet_distance_of_few_pictures_is_that_of_many(generator, n, m, k):
    x = torch.randn(n, k, generator=generator, dtype=torch.float64)
    y = 2 * torch.randn(m, k, generator=generator, dtype=torch.float64) + 1
    assert frechet_of_samples(x, y) == pytest.approx(fid(x, y), rel=1e-6)
    assert frechet_of_samples(x, x) == pytest.approx(0, abs=1e-9)


# departures from the published protocols


def test_what_departs_from_a_protocol_stands_beside_the_number(tmp_path):
    write_frames(tmp_path / "long" / "a", (0, 1, 2, 3, 4, 5), size=(512, 512))
    write_frames(tmp_path / "short" / "a", (0, 2, 5), size=(30, 20))
    evaluation = measured(tmp_path, "diffmorpher", features=Colour("colour"))
    table = evaluation.table.set_index(["method", "measure"])
    assert table.loc[("long", "fid"), "departures"] == "6 frames instead of 16 or 17"
    assert table.loc[("long", "fid"), "protocol"] == "diffmorpher, with colour"
    short = table.loc[("short", "ppl"), "departures"]
    assert "3 frames" in short and "30×20 pixels" in short and "difference instead of" in short
    # no departure at all
    whole = write_frames(tmp_path / "whole" / "a", (0, 1) * 5, size=(512, 512)).parent
    rows = measured(whole, "gfm", features=Colour()).table
    assert set(rows.query("measure == 'fid'")["departures"]) == {""}
    assert set(rows.query("measure == 'fid'")["protocol"]) == {"gfm"}


def test_frames_are_squeezed_to_the_size_of_the_protocol(tmp_path):
    seen = []

    def watching(a, b):
        seen.append(tuple(a.shape))
        return difference(a, b)

    write_frames(tmp_path / "a", size=(30, 20))
    for protocol in ("diffmorpher", "flowmorph"):
        measured(tmp_path, protocol, distance=watching)
    assert seen == [(3, 3, 512, 512), (3, 3, 20, 30)]


# folders


def test_layouts(folder, tmp_path):
    places = [(item.method, item.pair) for item in find_frames(folder)]
    assert places == [("lerp", "a"), ("lerp", "b"), ("still", "a"), ("still", "b")]
    swapped = find_frames(folder, pairs_first=True)
    assert [item.method for item in swapped] == ["a", "a", "b", "b"]
    assert [(item.method, item.pair) for item in find_frames(folder / "lerp")] == [
        ("lerp", "a"),
        ("lerp", "b"),
    ]
    (one,) = find_frames(folder / "lerp" / "a")
    assert one.pair == "a"
    many = write_frames(tmp_path / "many", range(6), names="frame{}.webp")
    (many / "frame2.webp").rename(many / "frame10.webp")
    (item,) = find_frames(many)
    assert [file.stem for file in item.files] == [
        "frame0",
        "frame1",
        "frame3",
        "frame4",
        "frame5",
        "frame10",
    ]


def test_the_output_of_the_pairs_command_is_read_as_it_is(tmp_path):
    score = PipelineScore(pipeline(), micro_batch=64, sigma=1.0)
    rough = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(rough, (64, 64), mode="bilinear")
    pairs = Pairs(images[:2], images[2:], "cat", name=["one", "two"])
    made = run_pairs(
        score, pairs, ["lerp", "slerp"], tmp_path, frames=5, distances={"mse": mse}, progress=False
    )
    evaluation = measured(tmp_path, "ours", distance=mse)
    for measure in ("ppl", "pdv"):
        rows = evaluation.table[evaluation.table["measure"] == measure]
        assert rows["method"].tolist() == made["method"].tolist()
        assert rows["pair"].tolist() == made["pair"].tolist()
        assert rows["value"].tolist() == pytest.approx(made[f"{measure}_mse"].tolist(), rel=1e-6)


def spoil(name):
    """A function that makes a folder of frames bad."""

    def one_frame(root):
        write_frames(root / "lerp" / "c", (0,))

    def other_size(root):
        write_frames(root / "lerp" / "a", (0,), size=(64, 32), names="9{}.png")

    def text(root):
        (root / "lerp" / "a" / "2.png").write_text("no picture")

    def moving(root):
        frames = [Image.new("RGB", (64, 64), (51 * i,) * 3) for i in range(3)]
        frames[0].save(root / "lerp/a/all.gif", save_all=True, append_images=frames[1:])

    def mixed(root):
        write_frames(root / "lerp")

    def deeper(root):
        write_frames(root / "more" / "of" / "this")
        write_frames(root / "c")

    def empty(root):
        (root / "lerp" / "c").mkdir()

    def longer(root):
        write_frames(root / "still" / "a", range(6))

    return locals()[name]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("one_frame", "c holds 1 picture.*at least one between"),
        ("other_size", "pair 'a' of 'lerp': 90.png has 64×32 pixels and 0.png 64×64.*one size"),
        ("text", "pair 'a' of 'lerp': cannot read 2.png"),
        ("moving", "all.gif is a moving picture"),
        ("mixed", "lerp holds both pictures and folders"),
        ("deeper", "do not all lie equally deep"),
        ("empty", "no pictures in .*c; put its frames there or remove"),
        ("longer", "4 frames in .*6 frames in pair 'a' of 'still'.*one number"),
    ],
)
def test_bad_folders(folder, how, message):
    spoil(how)(folder)
    with pytest.raises(ValueError, match=message):
        measured(folder, "ours" if how == "longer" else "gfm")


def test_bad_arguments(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        measured(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"unknown protocol 'diffmorph'.*'diffmorpher'"):
        measured(folder, "diffmorph")
    with pytest.raises(ValueError, match="compares with no other pictures"):
        measured(folder, "gfm", references=folder)
    with pytest.raises(FileNotFoundError, match="real is no folder"):
        measured(folder, "flowmorph", references=tmp_path / "real")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 picture"):
        measured(folder, "flowmorph", references=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"not finite|NaN"):
        measured(folder, distance=lambda a, b: torch.full((len(a),), torch.nan))


def test_other_files_and_missing_pairs_are_named_in_a_warning(folder):
    (folder / "lerp" / "a" / "notes.txt").write_text("a text")
    with pytest.warns(UserWarning, match="passed over: lerp/a/notes.txt"):
        evaluate_folder(folder, distance=difference)
    (folder / "lerp" / "a" / "notes.txt").unlink()
    write_frames(folder / "lerp" / "c")
    with pytest.warns(UserWarning, match="'still' has no frames of c"):
        evaluate_folder(folder, distance=difference)


# networks


def test_missing_networks_are_named_and_nothing_takes_their_place(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no weights"))
    with pytest.raises(FileNotFoundError, match=r"alex backbone.*alexnet-owt.*--lpips squeeze"):
        evaluate_folder(folder, "diffmorpher")
    evaluation = measured(folder, "diffmorpher")
    assert "fid" not in set(evaluation.table["measure"])
    assert "6726825d.pth" in evaluation.left_out["fid"]
    assert "--references" in measured(folder, "flowmorph").left_out["fid_mean"]


@pytest.fixture(scope="module")
def random_inception():
    """torch-fidelity's network with its random first weights."""
    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        return FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=file)


def test_features_are_those_of_the_network_of_fid(
    random_inception, generator, monkeypatch, tmp_path
):
    pixels = torch.randint(256, (1, 3, 299, 299), dtype=torch.uint8, generator=generator)
    clean = Inception(random_inception.state_dict(), "clean-fid")
    ours = clean(pixels / 255)
    torch.testing.assert_close(ours, random_inception(pixels)[0], rtol=1e-4, atol=1e-5)
    # from a file whose name ends in its checksum
    file = tmp_path / "hub" / "checkpoints" / "draft"
    file.parent.mkdir(parents=True)
    torch.save(random_inception.state_dict(), file)
    name = f"weights-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(name))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", f"https://example.org/{name}")
    loaded = load_inception("pytorch-fid")
    assert loaded.name == "inception, pytorch-fid"
    small = torch.full((1, 3, 20, 30), 0.75)
    torch.testing.assert_close(loaded.prepared(small), torch.full((1, 3, 299, 299), 0.5))
    torch.testing.assert_close(
        clean.prepared(small), torch.full((1, 3, 299, 299), (0.75 * 255 - 128) / 128)
    )
    assert loaded(small).shape == (1, 2048)
    file.with_name(name).write_bytes(b"cut short")
    with pytest.raises(ValueError, match="damaged"):
        load_inception()


# the command


def run(*arguments):
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def test_the_command_prints_and_writes_everything_or_nothing(folder, tmp_path, monkeypatch):
    difference.source = "a stub"
    monkeypatch.setattr(command, "load_lpips", lambda net, download: difference)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no weights"))
    out = tmp_path / "out"
    done = run(folder, "--protocol", "diffmorpher", "--lpips", "squeeze", "--out", out)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "diffmorpher.csv",
        "diffmorpher.json",
        "diffmorpher_summary.csv",
    ]
    table = pd.read_csv(out / "diffmorpher.csv")
    assert set(table["protocol"]) == {"diffmorpher, with LPIPS (squeeze)"}
    assert table.query("method == 'lerp' and measure == 'ppl'")["value"].tolist() == pytest.approx(
        [SUM] * 2, rel=1e-3
    )
    settings = json.loads((out / "diffmorpher.json").read_text(encoding="utf-8"))
    assert settings["networks"] == {"LPIPS (squeeze)": "a stub"}
    assert "left out: fid" in done.output and "0.8 [0.8, 0.8]" in done.output
    spoil("other_size")(folder)
    failed = run(folder, "--out", tmp_path / "second")
    assert isinstance(failed.exception, ValueError)
    assert not (tmp_path / "second").exists()
