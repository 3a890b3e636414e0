"""Grids and files of runs, and what status and resume say of them."""

import json

import books
import pytest
from typer.testing import CliRunner

from lib import runs
from lib.runs import cluster
from lib.runs.__main__ import app


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("01_drawn", "08_other"):
        books.write(folder, name, books.code(books.DRAW))
    (folder / "smoke.yml").write_text("01_drawn: {count: 1}\n08_other:\n")
    return folder


@pytest.fixture
def cli(shelf, tmp_path):
    def call(*words):
        roots = ["--root", tmp_path / "runs"] if words[0] in ("sweep", "run") else []
        folder = [] if words[0] == "status" else ["--notebooks", shelf]
        return CliRunner().invoke(app, list(map(str, [*words, *roots, *folder])))

    return call


def given(made):
    return [dict(run.given) for run in made]


@pytest.mark.parametrize(
    "words",
    [
        ["--grid", "count=1,2", "scale=0.1,1e2"],
        ["--grid", "count=1,2", "--grid", "scale=0.1,1e2"],
        ["--grid=count=1, 2", "scale = 0.1,100"],
    ],
)
def test_a_grid_on_the_command_line(cli, words):
    done = cli("sweep", "1", *words, "--dry-run")
    assert done.exit_code == 0, done.output
    for count in (1, 2):
        for scale in (0.1, 100.0):
            assert f"planned  count={count}, scale={scale}\n" in done.stdout
    assert "4 runs, 4 to be made" in done.stdout


@pytest.mark.parametrize(
    "word, values",
    [
        ("sigmas=[1.0,0.5],[1]", [[1.0, 0.5], [1]]),
        ("name=mnist,sklearn", ["mnist", "sklearn"]),
        ("quick=True", [True]),
        ('name="a hand, open",a fist', ["a hand, open", "a fist"]),
        ("count=1", [1]),
        ("name=5", ["5"]),
        ("name=", []),
    ],
)
def test_values_of_a_grid(shelf, word, values):
    assert runs.parse_grid(runs.find("1", shelf), [word]) == {word.partition("=")[0]: values}


@pytest.mark.parametrize(
    "words, said",
    [
        (["cuont=1,2"], "did you mean 'count'"),
        (["count=1,x"], "wants int"),
        (["count=1", "count=2"], "given twice"),
        (["name="], "no values for name"),
        (["count"], "write name=value"),
        (["figures_dir=a"], "not a free parameter"),
        (["sigmas=1,2"], "wants list"),
    ],
)
def test_a_wrong_grid_is_refused(shelf, words, said):
    notebook = runs.find("1", shelf)
    with pytest.raises(ValueError, match=said):
        runs.grid(notebook, runs.parse_grid(notebook, words))


def test_a_grid_has_equal_runs_once_and_smoke_parameters_below(shelf, tmp_path):
    notebook = runs.find("1", shelf)
    made = runs.grid(notebook, {"scale": [1, 1.0, 2]}, {"quick": True}, smoke=True, root=tmp_path)
    assert given(made) == [{"count": 1, "quick": True, "scale": scale} for scale in (1.0, 2.0)]
    assert [run.smoke for run in made] == [True, True]
    assert given(runs.grid(notebook, {})) == [{}]


def test_a_file_of_several_notebooks(shelf, tmp_path, cli):
    file = tmp_path / "sweep.yml"
    file.write_text("""
- notebook: 01
  parameters: {quick: true}
  grid: {count: [1, 2], scale: [1e-5, 2]}
  runs:
    - {count: 9, name: mnist}
- notebook: 08
""")
    made = runs.read_sweep(file, folder=shelf)
    assert given(made) == [
        {"quick": True, "count": count, "scale": scale} for count in (1, 2) for scale in (1e-5, 2.0)
    ] + [{"quick": True, "count": 9, "name": "mnist"}, {}]
    assert [run.notebook.stem for run in made] == ["01_drawn"] * 5 + ["08_other"]
    assert "6 runs, 6 to be made" in cli("sweep", file, "--dry-run").stdout


@pytest.mark.parametrize(
    "text, said",
    [
        ("notebook: 1\nparametres: {count: 1}", "key 'parametres'; did you mean 'parameters'"),
        ("grid: {count: [1]}", "names no"),
        ("notebook: 1\ngrid: {count: 1}", "grid, count wants a list"),
        ("notebook: 1\ngrid: {cuont: [1]}", "did you mean 'count'"),
        ("notebook: 1\nruns: {count: 1}", "runs wants a list"),
        ("notebook: 7", "no notebook '7'"),
        ("{", "no YAML"),
        ("", "names no"),
        ("notebook: 1\nruns: [{count: x}]", "wants int"),
        ("notebook: 1\ngrid: {count: []}", "no values for count"),
    ],
)
def test_a_wrong_file_is_refused(shelf, tmp_path, text, said):
    (tmp_path / "sweep.yml").write_text(text)
    with pytest.raises(ValueError, match=said):
        runs.read_sweep(tmp_path / "sweep.yml", folder=shelf)


@pytest.mark.parametrize(
    "words", [["1", "8", "--grid", "count=1"], ["1", "count=1"], ["--grid", "count=1", "scale=2"]]
)
def test_words_that_are_no_sweep_are_refused(cli, words):
    done = cli("sweep", *words)
    assert isinstance(done.exception, ValueError) and "write sweep NN --grid" in str(done.exception)


def test_status_and_resume(cli, shelf, tmp_path):
    books.write(
        shelf, "08_other", books.code(books.DRAW), books.code("raise ValueError('no luck')")
    )
    (tmp_path / "sweep.yml").write_text("[{notebook: 1, runs: [{count: 4}]}, {notebook: 8}]")
    done = cli("sweep", tmp_path / "sweep.yml", "-w", 1)
    assert done.exit_code == 1 and "notebooks: 1 passed, 1 failed" in done.stdout
    runs.Run(runs.find("1", shelf), {"count": 5}, tmp_path / "runs", True).plan()
    said = cli("status", tmp_path / "runs").stdout
    assert "finished" in said and "count=4" in said and "ValueError: no luck" in said
    assert said.endswith("1 planned, 1 failed, 1 finished\n")
    assert (
        "1 runs, 1 to be made"
        in cli("resume", tmp_path / "runs", "--state", "planned", "--dry-run").stdout
    )
    books.write(shelf, "08_other", books.code(books.DRAW))
    done = cli("resume", tmp_path / "runs", "-w", 1)
    assert (
        done.exit_code == 0
        and "notebooks: 2 passed, 0 failed" in done.stdout
        and "notebook changed since" in done.stderr
    )
    states = sorted(found.state.name for found in runs.found_runs(tmp_path / "runs"))
    assert states == [
        "failed",
        "finished",
        "finished",
        "finished",
    ]  # the failure of the notebook as it was stays on record
    smoke = [
        json.loads(path.read_text())["smoke"]
        for path in (tmp_path / "runs").glob("*/*/request.json")
    ]
    assert sorted(smoke) == [False, False, False, True]
    wrong = cli("resume", tmp_path / "runs", "--state", "faild").exception
    assert isinstance(wrong, ValueError) and "did you mean 'failed'" in str(wrong)
    assert isinstance(cli("status", tmp_path / "nowhere").exception, FileNotFoundError)


def test_threads_do_not_fight_and_gpus_are_shared_out(shelf, monkeypatch):
    made = runs.grid(runs.find("1", shelf), {"count": [1, 2, 3, 4, 5]})
    monkeypatch.setattr(cluster, "CPU_COUNT", 8)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def counts(*args):
        plan = cluster.layout(made, *args)
        return plan.workers, plan.threads

    assert [counts(), counts(2), counts(None, 2), counts(3, 4)] == [(5, 1), (2, 4), (4, 2), (3, 4)]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert counts(2) == (2, 2) and cluster.layout(made).environment(3)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 2)
    assert [
        cluster.layout(made).environment(worker)["CUDA_VISIBLE_DEVICES"] for worker in (0, 1, 2)
    ] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-x")
    assert cluster.visible_gpus() == ("5", "GPU-x")
    books.write(shelf, "01_drawn", books.code("device = 'cuda'  # gpu", "parameters"))
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        cluster.layout(made, 0)


def test_the_longest_begin_first(shelf, tmp_path):
    made = [runs.Run(runs.find(name, shelf), {}, tmp_path) for name in ("1", "8")]
    assert cluster.longest_first(made) == made
    (shelf / "durations.yml").write_text("01_drawn: 10\n08_other: 20\n")
    assert cluster.longest_first(made) == made[::-1]
    made[0].plan()
    (made[0].folder / "provenance.json").write_text('{"seconds": 30.0}')
    assert cluster.longest_first(made) == made
