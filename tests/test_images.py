"""Images and films as tensors: every kind of file, damaged ones, folders that hold none."""

import base64
import importlib.util
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from experiments import images


def picture(path, mode="RGB", size=(40, 30), colour="red", **settings):
    Image.new(mode, size, colour).save(path, **settings)


def cut(path):
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def grey_levels(frames):
    return (frames[:, 0, 0, 0] * 255).round().int().tolist()


def grey(path, values, **settings):
    """Twenty by twenty pixels of one value."""
    Image.fromarray(np.full((20, 20), *values)).save(path, **settings)


def swapped_profile():
    """The colour profile of a screen whose red and green lamps are swapped."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    for one, other in ((b"rXYZ", b"****"), (b"gXYZ", b"rXYZ"), (b"****", b"gXYZ")):
        renamed = renamed.replace(one, other, 1)
    return renamed


def long_text():
    """What an image generator notes of its workflow, compressed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "node " * 500_000, zip=True)
    return text


def animation(path):
    frames = [Image.new("RGB", (40, 30), name) for name in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


# A red picture as a phone writes it
HEIC = (
    "c-mc1Jx{|h5Ix6A6^T!Y4^^nDQdlac_8&yFKcvA;l#`OiN~2N+q*k!7F)_o!+7*~!;SVsg!NSx^Aa$S$cWq$kv(NAD`8"
    "lx<07`y(ssj%d5F+&JoJZ*T0OBn2QWqAe1nn@%bI_<#Si(Mr@%$rA2Lug*xLq(|kKzEa<IgKrcc}1;yb5}%&gr_wH2Sy"
    "9P$!!B4Yi7idt_?}$<o!_R35|6Y&r$lkS#h<bi}I2GB!wdNS@_K!*OZz@JNWIof~^-UVpydJ=|MC%_d3m0+nO37n<U^`"
    "*cY^*-~+sbX3?UbqxvwlD4s{z5HcP9#s{(I?ws?wVWA7mStmRicO7uWKmj{MN~u`{WY2TW)2N$UT{C7w#!Z4t%}h~>-*"
    "z;lzo*>CNK6xzs?$iUv?N(T>"
)
NEEDS_HEIF = pytest.mark.skipif(
    importlib.util.find_spec("pi_heif") is None, reason="pi-heif is not installed"
)


def photograph(path):
    path.write_bytes(zlib.decompress(base64.b85decode(HEIC)))


RED, HALF, BLACK, WHITE = [1, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1]
# name, who writes it, the colour that is read, what is said
KINDS = [
    ("a.jpg", lambda p: picture(p, quality=100), RED, None),
    ("a.jfif", lambda p: picture(p, format="JPEG", quality=100), RED, None),
    ("a.webp", lambda p: picture(p, lossless=True), RED, None),
    ("a.avif", lambda p: picture(p, quality=100), RED, None),
    ("a.jp2", lambda p: picture(p), RED, None),
    ("a.bmp", lambda p: picture(p), RED, None),
    ("a.PNG", lambda p: picture(p), RED, None),
    ("grey.png", lambda p: picture(p, "L", (30, 60), 128), HALF, None),
    ("palette.gif", lambda p: picture(p, "P", colour=0), BLACK, None),
    ("ink.tiff", lambda p: picture(p, "CMYK", colour=(0, 255, 255, 0)), RED, None),
    ("lab.tiff", lambda p: picture(p, "LAB", colour=(255, 128, 128)), WHITE, None),
    ("clear.png", lambda p: picture(p, "RGBA", colour=(0, 0, 0, 0)), WHITE, "clear.png.*white"),
    ("grey.webp", lambda p: picture(p, "RGBA", colour=(255, 0, 0, 255)), RED, None),
    ("deep.png", lambda p: grey(p, (32768, np.uint16)), HALF, None),
    ("deep.tiff", lambda p: grey(p, (32768, ">u2")), HALF, None),
    ("deep.pgm", lambda p: p.write_bytes(b"P5 20 20 65535\n" + 400 * b"\x80\0"), HALF, None),
    ("camera.tiff", lambda p: grey(p, (2048, np.uint16)), HALF, "camera.tiff.*12-bit"),
    ("float.tiff", lambda p: grey(p, (0.5, np.float32)), HALF, None),
    ("gamut.png", lambda p: picture(p, colour="lime", icc_profile=swapped_profile()), RED, None),
    ("broken.png", lambda p: picture(p, icc_profile=b"no profile"), RED, "broken.png.*profile"),
    ("long.png", lambda p: picture(p, pnginfo=long_text()), RED, None),
    ("moving.gif", animation, RED, "moving.gif.*first of its 2"),
    pytest.param("a.heic", photograph, RED, None, marks=NEEDS_HEIF),
]


@pytest.mark.parametrize("name, write, colour, said", KINDS)
def test_a_picture_of_every_kind(tmp_path, name, write, colour, said):
    write(tmp_path / name)
    with nullcontext() if said is None else pytest.warns(UserWarning, match=said):
        image = images.read(tmp_path / name, size=16)
    assert image.shape == (3, 16, 16) and image.dtype == torch.float32
    assert image.mean((1, 2)).tolist() == pytest.approx(colour, abs=0.02)
    assert images.pictures(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("fit, columns", [("crop", HALF), ("pad", WHITE), ("stretch", BLACK)])
def test_a_wide_picture_in_another_shape(tmp_path, fit, columns):
    """Black, grey and black thirds side by side: what stands in the upper left corner."""
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 128
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = images.read(tmp_path / "wide.png", size=(24, 20), fit=fit)
    assert image.shape == (3, 24, 20)
    assert image[:, 0, 4].tolist() == pytest.approx(columns, abs=0.01)


def test_a_folder_is_read_with_its_subfolders(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    picture(tmp_path / "sub" / "b.jpg", colour="blue")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    assert images.read_folder(tmp_path, size=16).shape == (2, 3, 16, 16)
    grey = images.read_folder(tmp_path, size=28, channels=1)
    assert grey.shape == (2, 1, 28, 28) and grey[0].mean() == pytest.approx(0.299, abs=0.01)


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
    assert grey_levels(images.read_frames(path, size=12, every=None, count=2)) == [0, 255]


def test_a_video_is_its_frames(tmp_path):
    cv2 = pytest.importorskip("cv2")
    levels = list(range(0, 200, 25))
    for name, codec in (("Füße 2.mp4", "mp4v"), ("cut.mkv", "MJPG")):
        film = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
        for level in levels:
            film.write(np.full((48, 64, 3), (0, 0, level), np.uint8))
        film.release()
    frames = images.read_frames(tmp_path / "Füße 2.mp4", size=16)
    assert grey_levels(frames) == pytest.approx(levels, abs=5)
    # red, not blue
    assert frames[:, 1:].max() < 0.02
    cut(tmp_path / "cut.mkv")
    with pytest.warns(UserWarning, match="cut.mkv ends after 3 of 8 frames"):
        images.read_frames(tmp_path / "cut.mkv", size=16)


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
        (lambda f: images.read(f / "empty.png"), ValueError, r"empty\.png.*file is empty"),
        (lambda f: images.read(f / "phone.heic"), ValueError, r"phone\.heic"),
        (lambda f: images.read(f / "good.png", fit="corp"), ValueError, "crop"),
        (lambda f: images.read_frames(f / "clip.mp4", size=8), ValueError, r"clip\.mp4"),
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
    (tmp_path / "empty.png").touch()
    (tmp_path / "phone.heic").write_bytes(b"no picture")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    Image.fromarray(np.full((20, 20), 2, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(error, match=culprit):
        read(tmp_path)
