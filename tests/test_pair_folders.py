"""Pairs of a folder or a table: every layout and spelling that people and programs write."""

import importlib.util
import io
import json
import zipfile
from contextlib import nullcontext
from unicodedata import normalize

import pytest
import torch
from PIL import Image

from experiments.names import ROOT, find
from experiments.own_model import own_pairs
from experiments.pair_folders import read_pairs
from lib import FunctionScore

# None is a picture
XY = {"x.png": None, "y.png": None}
LONG = 300 * "n"
NFD = normalize("NFD", "é")


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


def spreadsheet(*rows):
    """The bytes of an OpenDocument file, as LibreOffice writes it."""
    space = "urn:oasis:names:tc:opendocument:xmlns:"
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    table = "".join(
        f"<table:table-row>{''.join(cell.format(text) for text in row)}</table:table-row>"
        for row in rows
    )
    names = "".join(f' xmlns:{name}="{space}{name}:1.0"' for name in ("office", "table", "text"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        manifest = f'<x:manifest xmlns:x="{space}manifest:1.0"/>'
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        body = f'<office:spreadsheet><table:table table:name="a">{table}</table:table>'
        archive.writestr(
            "content.xml",
            f"<office:document-content{names}><office:body>{body}</office:spreadsheet>"
            "</office:body></office:document-content>",
        )
    return file.getvalue()


FREEMORPH = lines(
    {"exp_id": "dog_01", "image_paths": ["images/x.png", "y.png"], "prompts": ["a dog", "a cat"]},
    {"exp_id": "dog_02", "image_paths": ["y.png", "images/x.png"], "prompts": ["b", "c"]},
)
TVG_ROW = {
    "name": "jay",
    "prompts": None,
    "prompt_1": "a face",
    "prompt_2": "a mask",
    "video_dir_1": "EvalData/MorphBench/Animation/jay_0.png",
    "video_dir_2": "EvalData/MorphBench/Animation/jay_1.png",
}
MORPHBENCH = {
    "Animation/jay_0.png": None,
    "Animation/jay_1.png": None,
    "Metamorphosis/old house_0.png": None,
    "Metamorphosis/old house_1.avif": None,
}
WORDS = "start,end,prompt\nx.png,y.png,café\n"
# what is tried: files → what is read, (name, prompt, end prompt) a pair, and what is said
LAYOUTS = {
    "utf-8": ({"pairs.csv": WORDS}, [("000", "café", "café")], None),
    "mark": ({"pairs.csv": WORDS.encode("utf-8-sig")}, [("000", "café", "café")], None),
    "utf-16": ({"pairs.csv": WORDS.encode("utf-16")}, [("000", "café", "café")], None),
    "cp1252": (
        {"pairs.csv": WORDS.encode("cp1252")},
        [("000", "café", "café")],
        "pairs.csv is not in UTF-8",
    ),
    "mac": ({"pairs.csv": normalize("NFD", WORDS)}, [("000", "café", "café")], None),
    "windows": (
        {"pairs.csv": 'sep=;\r\nStart;End;Prompt\r\nx.png;y.png;"a, b;\r\nc"\r\n;;\r\n\r\n'},
        [("000", "a, b; c", "a, b; c")],
        None,
    ),
    "spreadsheet": pytest.param(
        {"pairs.ods": spreadsheet(["Start", "End", "Prompt"], ["x.png", "y.png", "a, b"], [""])},
        [("000", "a, b", "a, b")],
        None,
        marks=pytest.mark.skipif(
            importlib.util.find_spec("python_calamine") is None,
            reason="python-calamine is not installed",
        ),
    ),
    "unicode text of Excel": (
        {"pairs.txt": "start\tend\r\nx.png\ty.png\r\n".encode("utf-16")},
        [("000", "", "")],
        None,
    ),
    "tabs": (
        {"pairs.tsv": "name\tstart\tend\tprompt\tend_prompt\none\tx.png\ty.png\tNA\t\n"},
        [("one", "NA", "NA")],
        None,
    ),
    "flowmorph": (
        {"pairs.csv": "source,target,source_prompt,target_prompt\nx.png,y.png,a,b\n"},
        [("000", "a", "b")],
        None,
    ),
    "freemorph": (
        {"caption.jsonl": FREEMORPH, "images/x.png": None},
        [("dog_01", "a dog", "a cat"), ("dog_02", "b", "c")],
        None,
    ),
    "tvg": (
        {"animation.json": json.dumps({"data": [TVG_ROW]}, indent=1), **MORPHBENCH},
        [("jay", "a face", "a mask")],
        "jay_0.png for EvalData",
    ),
    "morphbench": (
        {**MORPHBENCH, "Animation/jay.txt": b"\xef\xbb\xbfa face\r\n\r\na mask\r\n"},
        [("Animation-jay", "a face", "a mask"), ("Metamorphosis-old house", "", "")],
        "1 of 2 pairs have no prompt",
    ),
    "halves": (
        {"source/2.png": None, "source/10.png": None, "target/2.jpg": None, "target/10.png": None},
        [("10", "", ""), ("2", "", "")],
        "2 of 2 pairs have no prompt",
    ),
    "two images": ({"prompt.txt": "a"}, [("Füße und Hände", "a", "a")], None),
    "numbers": ({"x/1.png": None, "x/2.png": None, "x/prompt.txt": "a"}, [("x", "a", "a")], None),
    "subfolders": (
        {"one/source.png": None, "one/target 1.webp": None, "one/prompt.txt": "two"},
        [("one", "two", "two")],
        None,
    ),
    "a stray table": (
        {"marks.csv": "name,mark\nx,1\n", "a_0.png": None, "a_1.jfif": None, "a.txt": "a"},
        [("a", "a", "a")],
        "passed over marks.csv",
    ),
    "backslashes": ({"pairs.csv": "start,end\nsub\\z.png,y.png\n", "sub/z.png": None}, 1, None),
    "case": ({"pairs.csv": "start,end\nSub\\Z.PNG,y.png\n", "sub/z.png": None}, 1, None),
    "normal form": ({"pairs.csv": "start,end\né.png,y.png\n", f"{NFD}.png": None}, 1, None),
    "partners": ({f"{NFD}_0.png": None, "é_1.png": None, "é.txt": "e"}, [("é", "e", "e")], None),
    "another machine": ({"pairs.csv": "start,end\nC:\\me\\x.png,y.png\n"}, 1, "x.png for C:"),
    "names": (
        {
            "pairs.csv": "name,start,end\n"
            + "".join(f"{name},x.png,y.png\n" for name in ("con.x", "dot.", "A", "a", LONG, "b/c"))
        },
        [(name, "", "") for name in ("_con.x", "dot", "A", "a-2", 75 * "n", "b_c")],
        "5 names are changed.*'con.x' → '_con.x'",
    ),
}


def laid_out(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            last = path.stem[-1] in "1y" or path.parent.name == "target"
            Image.new("RGB", (16, 16), "blue" if last else "red").save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize("files, expected, said", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout(tmp_path, files, expected, said):
    folder = laid_out(tmp_path / "Füße und Hände", files if "a_0.png" in files else XY | files)
    with nullcontext() if said is None else pytest.warns(UserWarning, match=said):
        found = read_pairs(folder)
    if expected != 1:
        read = list(zip(found.name, found.prompt, found.end_prompt, strict=True))
        assert read == expected
    for i in range(len(found)):
        first, last = found.images(i, (16, 24))
        assert first.shape == last.shape == (3, 16, 24)


def test_further_columns_and_the_file_of_a_table(tmp_path, monkeypatch):
    table = "start,end,category,level\n{0}/x.png,y.png,animals,2\n{0}/y.png,~/x.png,words,3\n"
    laid_out(tmp_path, XY | {"mine.csv": table.format(tmp_path)})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    for source in (tmp_path / "mine.csv", f"{tmp_path.name}/mine.csv", "~/mine.csv"):
        found = read_pairs(source)
        assert found.about == {"category": ["animals", "words"], "level": [2, 3]}
        assert [path.name for path in found.end] == ["y.png", "x.png"]
    assert find(f"{tmp_path.name}/X.PNG") == tmp_path / "x.png"
    assert find("README.md").parent == ROOT
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        find("gone.png")
    laid_out(tmp_path / "bench", MORPHBENCH)
    with pytest.warns(UserWarning, match="no prompt"):
        assert read_pairs(tmp_path / "bench").about == {"category": ["Animation", "Metamorphosis"]}


def test_own_images_as_points_of_a_model(tmp_path):
    laid_out(tmp_path, {f"{k}.png": None for k in range(5)} | {"t.csv": "start,end\n1.png,0.png\n"})
    score = FunctionScore(lambda x: -x, event_shape=(1, 8, 12))
    start, end = own_pairs(str(tmp_path), score)
    assert start.shape == end.shape == (2, 1, 8, 12)
    table = own_pairs(str(tmp_path / "t.csv"), score)
    assert torch.equal(table[0], end[:1]) and torch.equal(table[1], start[:1])
    assert len(own_pairs(str(tmp_path), score, count=1)[0]) == 1


@pytest.mark.parametrize(
    "files, error, message",
    [
        ({}, ValueError, "no pairs in .*pairs.csv.*NAME_0.png"),
        ({"c_0.png": None, "c_1.svg": ""}, FileNotFoundError, r"c_0\.png .*\(c_1\.svg is no"),
        ({"source/c.png": None}, FileNotFoundError, r"source.c\.png .*missing"),
        ({"cat.svg": ""}, ValueError, r"which holds cat\.svg"),
        ({"c_0.png": None, "c_0.jpg": None, "c_1.png": None}, ValueError, "both image 0 of a pair"),
        ({"pairs.csv": "start,end\nx.png,gone.png\n"}, FileNotFoundError, r"row 1 .*gone\.png"),
        ({"pairs.csv": f"start,end\nx.png,{LONG}\n"}, FileNotFoundError, "row 1 of pairs.csv"),
        ({"pairs.csv": "start,stop\nx.png,x.png\n"}, ValueError, "no end image.*start, stop"),
        ({"pairs.csv": "start,end,prompt\nx,y,a,b\n"}, ValueError, "pairs.csv.*double quotes"),
        ({"pairs.csv": ""}, ValueError, "pairs.csv has no rows"),
        ({"pairs.csv": b"start\x81"}, ValueError, "pairs.csv.*UTF-8"),
        ({"pairs.json": "{"}, ValueError, "pairs.json cannot be read"),
        ({"pairs.jsonl": lines({"image_paths": ["x.png"]})}, ValueError, "image_paths.*not two"),
        ({"pairs.csv": "start,end\n"}, ValueError, "pairs.csv has no rows"),
        ({"pairs.csv": 'start,end\n"x.png,x.png\n'}, ValueError, "pairs.csv cannot be read"),
        ({"pairs.numbers": b"PK\0"}, ValueError, "pairs.numbers cannot be read.*CSV"),
        ({"pairs.csv": WORDS, "pairs.json": "[]"}, ValueError, "keep one of them"),
        ({"c_0.png": None, "c_1.png": None, "c.txt": "a\nb\nc"}, ValueError, "c.txt has 3 lines"),
    ],
)
def test_what_holds_no_pairs_is_named(tmp_path, files, error, message):
    laid_out(tmp_path, files | {"x.png": None})
    with pytest.raises(error, match=message):
        read_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pairs(tmp_path / "nowhere")
