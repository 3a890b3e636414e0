"""Images and films as tensors: every kind of file, damaged ones, folders that hold none."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import images


def picture(path, mode="RGB", size=(40, 30), colour="red", **settings):
    Image.new(mode, size, colour).save(path, **settings)


def cut(path):
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def grey_levels(frames):
    return (frames[:, 0, 0, 0] * 255).round().int().tolist()


def test_images_of_all_kinds_become_one_tensor(tmp_path):
    picture(tmp_path / "a.jpg", quality=100)
    picture(tmp_path / "b.png", "L", (30, 60), 128)
    picture(tmp_path / "c.webp", colour="white", lossless=True)
    # nothing but transparent black is white
    picture(tmp_path / "d.png", "RGBA", colour=(0, 0, 0, 0))
    picture(tmp_path / "e.gif", "P", colour=0)
    picture(tmp_path / "f.tiff", "CMYK", colour=(0, 0, 0, 255))
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "g.png")
    (tmp_path / "sub").mkdir()
    picture(tmp_path / "sub" / "h.bmp", colour="blue")
    picture(tmp_path / "sub" / "i.jp2", colour="white")
    (tmp_path / "notes.txt").write_text("no image")
    found = images.read_folder(tmp_path, size=16)
    assert found.shape == (9, 3, 16, 16) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    half = [128 / 255] * 3
    black, white, red, blue = [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]
    colours = torch.tensor([red, half, white, white, black, black, half, blue, white])
    torch.testing.assert_close(found.mean((2, 3)), colours, rtol=0, atol=0.02)
    grey = images.read_folder(tmp_path, size=28, channels=1)
    assert grey.shape == (9, 1, 28, 28) and grey[0].mean() == pytest.approx(0.299, abs=0.01)


def test_images_are_turned_upright_and_cut_to_their_middle(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    # the middle square: light above, dark below
    wide[:, 20:40] = 100
    wide[:10, 20:40] = 200
    exif = Image.Exif()
    # stored upside down
    exif[0x0112] = 3
    Image.fromarray(wide[::-1, ::-1].copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(wide).save(tmp_path / "upright.png")
    turned, upright = images.read_folder(tmp_path, size=20, channels=1)
    assert torch.equal(turned, upright)
    means = [upright[0, :8].mean().item(), upright[0, 12:].mean().item()]
    assert means == pytest.approx([200 / 255, 100 / 255], abs=1e-3)


def test_unreadable_and_tiny_images_are_left_out_by_name(tmp_path):
    picture(tmp_path / "good.png")
    picture(tmp_path / "tiny.png", size=(3, 50))
    picture(tmp_path / "cut.jpg", size=(200, 200))
    cut(tmp_path / "cut.jpg")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.webp").write_text("no image")
    with pytest.warns(UserWarning, match=r"4 of 5 .*cut\.jpg.*empty\.png.*text\.webp.*tiny\.png"):
        assert images.read_folder(tmp_path, size=8).shape == (1, 3, 8, 8)


def test_a_folder_is_a_film_in_natural_order(tmp_path):
    for k in (1, 2, 10, 11):
        picture(tmp_path / f"frame{k}.png", colour=(10 * k,) * 3)
    (tmp_path / "notes.txt").write_text("no frame")
    film = images.read_frames(tmp_path, size=16)
    assert film.shape == (4, 3, 16, 16) and film.dtype == torch.float32
    assert grey_levels(film) == [10, 20, 100, 110]
    assert grey_levels(images.read_frames(tmp_path, size=16, first=1, every=2)) == [20, 110]
    assert grey_levels(images.read_frames(tmp_path, size=16, count=2, channels=1)) == [10, 20]
    assert torch.equal(film[2], images.read(tmp_path / "frame10.png", size=16))


def test_a_gif_is_its_frames(tmp_path):
    pages = [Image.new("RGB", (40, 30), (grey,) * 3) for grey in (0, 85, 170, 255)]
    path = tmp_path / "moving.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=40)
    assert grey_levels(images.read_frames(path, size=12)) == [0, 85, 170, 255]
    assert grey_levels(images.read_frames(path, size=12, first=1, every=2)) == [85, 255]


@pytest.mark.parametrize(
    "read, error, culprit",
    [
        (lambda f: images.read_folder(f / "typo", size=8), FileNotFoundError, "typo"),
        (lambda f: images.read_folder(f / "empty", size=8), ValueError, "no image in"),
        (lambda f: images.read_folder(f / "small", size=8), ValueError, r"tiny\.png.*1×1"),
        (lambda f: images.read_folder(f, size=8, channels=4), ValueError, "channels"),
        (lambda f: images.read_folder(f, size=0), ValueError, "size"),
        (lambda f: images.read(f / "cut.png", size=8), ValueError, r"cut\.png"),
        (lambda f: images.read(f / "float.tiff", size=8), ValueError, r"float\.tiff.*range"),
        (lambda f: images.read_frames(f / "typo", size=8), FileNotFoundError, "typo"),
        (lambda f: images.read_frames(f, size=8), ValueError, r"cut\.png"),
        (lambda f: images.read_frames(f / "good.png", size=8), ValueError, "needs two"),
        (lambda f: images.read_frames(f / "empty", size=8), ValueError, "gives 0 frame"),
        (lambda f: images.read_frames(f / "none.gif", size=8), ValueError, r"none\.gif"),
        (lambda f: images.read_frames(f, size=8, every=0), ValueError, "every"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, read, error, culprit):
    for folder in ("empty", "small"):
        (tmp_path / folder).mkdir()
    picture(tmp_path / "small" / "tiny.png", size=(1, 1))
    picture(tmp_path / "good.png", size=(200, 200))
    picture(tmp_path / "cut.png", size=(200, 200))
    cut(tmp_path / "cut.png")
    (tmp_path / "none.gif").write_text("GIF89a")
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(error, match=culprit):
        read(tmp_path)
