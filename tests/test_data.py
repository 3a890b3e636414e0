"""Digits: where they come from, and what happens when files are missing or damaged."""

import functools
import gzip
import hashlib
import http.server
import threading

import pytest
import torch

from experiments import data


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch):
    monkeypatch.delenv("GEODESICS_DATA", raising=False)


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A GEODESICS_DATA folder with three test and two training images, and a registry of them."""
    registry = {"sklearn-digits": data.registry()["sklearn-digits"]}
    (tmp_path / "mnist").mkdir()
    for part, prefix, count in (("test", "t10k", 3), ("train", "train", 2)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        images = bytes([0, 0, 8, 3]) + sizes + bytes([51]) * 784 * count
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes([7, 1, 7][:count])
        contents = {
            f"{prefix}-images-idx3-ubyte.gz": images,
            f"{prefix}-labels-idx1-ubyte.gz": labels,
        }
        entry = {**data.registry()[f"mnist-{part}"], "files": []}
        for name, raw in contents.items():
            packed = gzip.compress(raw, mtime=0)
            (tmp_path / "mnist" / name).write_bytes(packed)
            entry["files"].append(
                {"name": name, "size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
            )
        registry[f"mnist-{part}"] = entry
    monkeypatch.setattr(data, "registry", lambda: registry)
    monkeypatch.setenv("GEODESICS_DATA", str(tmp_path))
    return tmp_path / "mnist"


def test_sklearn_digits_are_there_without_anything():
    digits = data.digits("sklearn", split="all")
    assert digits.images.shape == (1797, 1, 28, 28) and digits.images.dtype == torch.float32
    assert digits.labels.dtype == torch.int64 and digits.labels.unique().tolist() == list(range(10))
    assert digits.images.min() == 0 and 0.9 < digits.images.max() <= 1
    assert not digits.source.fallback and "scikit-learn" in digits.source.message


def test_splits_are_disjoint_and_complete():
    parts = [data.digits(split=split) for split in ("train", "test")]
    whole = data.digits(split="all")
    assert [len(part) for part in parts] == [1297, 500]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_labels_and_limit_keep_the_order_of_the_file():
    whole, some = data.digits(), data.digits(labels=[3, 5], limit=4)
    keep = torch.isin(whole.labels, torch.tensor([3, 5])).nonzero().flatten()[:4]
    assert torch.equal(some.labels, whole.labels[keep]) and torch.equal(
        some.images, whole.images[keep]
    )
    assert set(data.digits(labels=0).labels.tolist()) == {0}


def test_enlarged_digits_keep_their_ink_and_leave_room_to_turn():
    small = data.digits(split="all", size=28).images
    rows, columns = torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij")
    outside = small[..., rows**2 + columns**2 > 14**2]
    assert outside.sum() / small.sum() < 0.001
    large = data.digits(split="all", size=56).images
    torch.testing.assert_close(large.mean((1, 2, 3)), small.mean((1, 2, 3)), rtol=0.02, atol=0)


def test_auto_falls_back_and_says_so():
    digits = data.digits("auto")
    assert digits.source.fallback and digits.source.name == "sklearn-digits"
    assert "MNIST is not on this machine" in digits.source.message


def test_auto_prefers_mnist_where_it_is(tiny_mnist):
    digits = data.digits("auto")
    assert (
        not digits.source.fallback
        and digits.source.name == "mnist-test"
        and digits.labels.tolist() == [7, 1, 7]
    )
    torch.testing.assert_close(digits.images, torch.full((3, 1, 28, 28), 0.2))
    assert str(tiny_mnist) not in digits.source.message


def test_mnist_splits_follow_each_other(tiny_mnist):
    digits = data.digits("mnist", split="all")
    assert len(digits) == 5 and len(digits.source.sha256) == 4
    assert data.digits("mnist", size=14, limit=1).images.shape == (1, 1, 14, 14)


def test_mnist_that_is_not_there_names_the_ways_to_get_it():
    with pytest.raises(FileNotFoundError, match=r"GEODESICS_DATA.*download=True"):
        data.digits("mnist")


def test_a_wrong_folder_is_an_error_and_not_a_fallback(tmp_path, monkeypatch):
    monkeypatch.setenv("GEODESICS_DATA", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match="correct or unset"):
        data.digits("auto")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: raw[:-1] + b"!"], ids=["cut short", "changed"]
)
def test_damaged_files_are_an_error_and_not_a_fallback(tiny_mnist, damage):
    file = tiny_mnist / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=file.name):
        data.digits("auto")
    states = data.availability()
    assert file.name in states["mnist-test"] and states["mnist-train"] == "here"
    assert file.exists()


@pytest.fixture
def mirror(tiny_mnist, tmp_path, monkeypatch):
    """A web server on this machine with the tiny MNIST, and no GEODESICS_DATA."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tiny_mnist)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        for name in ("mnist-test", "mnist-train"):
            monkeypatch.setitem(data.registry()[name], "mirrors", [here + "gone/", here])
        monkeypatch.delenv("GEODESICS_DATA")
        monkeypatch.setenv("GEODESICS_CACHE", str(tmp_path / "cache"))
        yield tiny_mnist
        server.shutdown()


def test_download_happens_only_when_asked_and_is_kept(mirror):
    assert data.digits("auto").source.fallback
    # the first mirror has nothing, the second has it
    assert len(data.digits("auto", download=True)) == 3
    for file in mirror.iterdir():
        file.unlink()
    assert not data.digits("auto").source.fallback


@pytest.mark.parametrize("content", [b"something else", None], ids=["another file", "no answer"])
def test_a_download_that_fails_leaves_nothing_and_names_another_way(mirror, tmp_path, content):
    file = mirror / "t10k-images-idx3-ubyte.gz"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(ConnectionError, match="GEODESICS_DATA"):
        data.digits("mnist", download=True)
    assert list((tmp_path / "cache").rglob("*images*")) == []


@pytest.mark.parametrize(
    "given, words",
    [
        ({"source": "minst"}, "unknown source 'minst'"),
        ({"split": "dev"}, "unknown split"),
        ({"labels": [10]}, "0 to 9"),
        ({"labels": []}, "0 to 9"),
        ({"limit": 0}, "limit"),
        ({"size": 4}, "size"),
        ({"labels": 9, "split": "test", "limit": True}, "limit"),
    ],
)
def test_bad_arguments_of_digits(given, words):
    with pytest.raises(ValueError, match=words):
        data.digits(**given)


def test_bundled_files_lie_beside_the_registry_and_are_checked(tmp_path, monkeypatch):
    file = {"name": "model.bin", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    monkeypatch.setattr(data, "REGISTRY", tmp_path / "registry.toml")
    monkeypatch.setattr(
        data, "registry", lambda: {"model": {"bundled": "models/one", "files": [file]}}
    )
    monkeypatch.setenv("GEODESICS_DATA", str(tmp_path / "not consulted"))
    assert data.locate("model", download=True) is None
    path = tmp_path / "models" / "one" / "model.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    assert data.locate("model") == {"model.bin": path}
    path.write_bytes(b"abd")
    with pytest.raises(ValueError, match="sha256"):
        data.locate("model")


def test_an_unknown_registry_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="mnist-test"):
        data.locate("minst")


@pytest.fixture(scope="module")
def images():
    return data.digits(limit=20).images


def test_no_turn_changes_nothing(images):
    torch.testing.assert_close(data.rotate(images, 0.0), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_are_exact_and_counter_clockwise(images, quarters):
    turned = data.rotate(images, 90 * quarters)
    torch.testing.assert_close(turned, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-6)


def test_there_and_back(images):
    back = data.rotate(data.rotate(images, 33.0), -33.0)
    assert (back - images).square().mean() < 0.02 * images.square().mean()


def test_one_angle_each_is_the_same_as_one_by_one(images):
    angles = torch.linspace(-50, 120, 20)
    together = data.rotate(images, angles)
    alone = [
        data.rotate(image[None], angle.item()) for image, angle in zip(images, angles, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_a_wide_image_turns_without_being_sheared():
    image = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    image[..., 10, 16:25] = 1  # a bar of nine pixels across the centre
    assert data.rotate(image, 90)[0, 0, 6:15, 20].min() > 0.999


def test_turns_are_all_turns(images):
    all_turns = data.turns(images[0])
    assert all_turns.shape == (180, 1, 28, 28)
    torch.testing.assert_close(all_turns[45], torch.rot90(images[0], 1, (1, 2)), rtol=0, atol=1e-6)
    assert torch.equal(all_turns, data.turns(images[:1]))


def test_rotate_leaves_its_input_alone(images):
    before = images.clone()
    out = data.rotate(images.double(), 10.0)
    assert out.dtype == torch.float64 and torch.equal(images, before)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: data.rotate(x[0], 3.0),
        lambda x: data.rotate(x, float("nan")),
        lambda x: data.rotate(x, torch.ones(2, 2)),
        lambda x: data.turns(x),
        lambda x: data.turns(x[0], 7.0),
        lambda x: data.turns(x[0], 0.0),
    ],
)
def test_bad_arguments_of_rotate_and_turns(images, call):
    with pytest.raises(ValueError, match=r"wants|step"):
        call(images)
