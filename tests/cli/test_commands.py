# SPDX-License-Identifier: Apache-2.0
"""The commands as a user types them: what they write and print, and one line with status 2 for bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.fresh import output_of
from helpers.shapes import HEIGHT, WIDTH, write_shapes
from pliant.cli import main
from pliant.train.progress import read_metrics

COMMANDS = ("demo", "train", "eval", "predict", "explain", "export", "plan", "convert-checkpoint", "env", "completion")
SETTINGS = (
    "--backbone resnet18 --deform c4 --strides 8 16 --fpn-channels 16 --head-channels 32 --min-size 64 --max-size 128 "
    "--anchor-sizes 16 32 64 --device cpu"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), {"train": 4, "val": 2, "test": 3})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(data), "--out", str(out), "--steps", "3", *SETTINGS.split()]) == 0
    return out


def _fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail: status 2 and one line; return the line."""
    try:
        status = main(arguments)
    except SystemExit as error:
        status = int(str(error.code))
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pliant {command}")


def test_help_lists_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w[\w-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_train_help_gives_defaults_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--max-size N limit of the long side of the resized image, in pixels (default: 1333; " in text
    assert "--strides N [N ...] strides of the pyramid's maps, in pixels (default: 4 8 16 32; " in text


def test_train_help_is_grouped_and_opens_with_a_short_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert (
        text.splitlines()[0] == "usage: pliant train --data DIR --out RUN [--model NAME] [--recipe NAME] [option ...]"
    )
    headings = re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)
    titles = ("data", "model", "detector", "optimisation", "machine and run folder")
    assert [title for title in headings if title in titles] == list(titles)
    joined = re.sub(r"-\s+", "-", " ".join(text.split()))  # argparse breaks lines behind hyphens
    assert "For faster-rcnn, mask-rcnn, faster-rcnn-dc5, mask-rcnn-dc5, rfcn, class-aware-rpn only." in joined
    assert "(default: 800; 600 for rfcn; 600 for class-aware-rpn; 360 for deeplab; faster-rcnn, mask-rcnn, " in joined


def test_train_help_of_one_model_leaves_out_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--model", "deeplab", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "in evaluation (default: 360)" in text
    assert "--offset-dilation" in text
    assert not re.search(r"--ohem|--mimic|detection only|R-CNN feature|for rfcn", text)


def test_recipes_are_listed_by_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list-recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.split()[:1] == ["v1-rfcn-voc-3"])
    assert row.endswith("R-FCN on VOC, res5a, b, c (the default) (reported: mAP@0.5/0.7 81.4/64.7)")
    assert "Deformable Convolutional Networks (arXiv 1703.06211), Table 1" in lines


def test_a_recipe_is_trained_with_what_is_given_besides(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--recipe", "v1-rfcn-voc-3", "--data", str(data), "--out", str(tmp_path / "run")]
    small = "--backbone resnet18 --weights none --norm frozen --min-size 64 --max-size 128 --reduction-channels 8"
    other = "--split train --val-split none --steps 1 --accumulate 1 --device cpu"
    assert main([*arguments, *small.split(), *other.split()]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert (config["model"], config["deform"], config["lr"], config["steps"]) == ("rfcn", "c5", 0.008, 1)
    assert (config["accumulate"], config["step_images"]) == (1, None)
    assert "1 step of 1 image left" in capsys.readouterr().err
    # Not that of the layer which learns at three times the rate, and not that of the next step.
    assert [record["lr"] for record in read_metrics(tmp_path / "run") if "lr" in record] == [0.008]


def test_options_of_inference_are_taken_by_eval_and_predict(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extras = "--nms gaussian --test-scales 64 96 --test-flip --box-averaging 1 --counted-detections 50 --tile 64"
    common = ["--data", str(data), "--split", "test", "--device", "cpu"]
    assert main(["eval", str(run), *common, *extras.split()]) == 0
    assert "maxDets=50" in capsys.readouterr().out

    def scores(threshold: float) -> list[float]:
        options = ["--device", "cpu", "--tile", "64", "--score-threshold", str(threshold)]
        assert main(["predict", str(run), str(data / "test" / "002.png"), "--out", str(tmp_path), *options]) == 0
        results = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
        return sorted({result["score"] for result in results})

    every = scores(0.0)
    middle = len(every) // 2
    assert 0 < middle < len(every)
    assert scores((every[middle - 1] + every[middle]) / 2) == every[middle:]


def test_options_reach_the_config(run: Path) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["strides"], config["deform"], config["anchor_sizes"], config["steps"]) == (
        [8, 16],
        "c4",
        [16, 32, 64],
        3,
    )


def test_eval_prints_the_table_and_writes_the_metrics(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run), "--data", str(data), "--split", "test", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "split test: 3 images, 6 boxes; no problems" in out
    assert "Average Precision" in out
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["split"] == "test"
    assert -1 <= metrics["ap"] <= metrics["ap50"] <= 1


def test_predict_writes_coco_results_and_pictures(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(data / "test" / "002.png"), str(data / "val")]
    assert main(["predict", str(run), *images, "--out", str(tmp_path), "--min-score", "0.1", "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert results
    assert {result["image_id"] for result in results} <= {1, 2, 3}
    assert {result["category_id"] for result in results} <= {3, 7}
    assert all(len(result["bbox"]) == 4 and 0 <= result["score"] <= 1 for result in results)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["0001_002.png", "0002_001.png", "0003_002.png"]
    assert f"{len(results)} detections on 3 images" in capsys.readouterr().out


def test_predict_names_a_broken_image_and_goes_on(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((data / "test" / "001.png").read_bytes()[:200])
    good = str(data / "test" / "001.png")
    assert main(["predict", str(run), str(broken), good, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("pliant: left out: ") == 1
    assert "broken.jpg" in captured.err
    assert "on 1 image;" in captured.out


def test_explain_draws_the_samples_around_a_point(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, picture = str(data / "test" / "001.png"), tmp_path / "e.png"
    two = ["--at", "30,20", "--at", "40,30", "--show", "points", "--stack", "1"]
    assert main(["explain", str(run), image, *two, "--out", str(picture)]) == 0
    assert capsys.readouterr().out.count("points: 9 samples of body.layer3.1.conv2, spread ") == 2
    assert main(["explain", str(run), image, "--at", "40,32", "--stack", "2", "--out", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = re.search(r"points: (\d+) samples of body.layer3.1.conv2 < body.layer3.1.conv1", lines[0])
    assert printed is not None
    assert 9 < int(printed[1]) <= 4 * 81
    assert [line.split(":")[0] for line in lines[1:3]] == ["locations", "field"]
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 1000


def test_explain_writes_a_page_of_an_image(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, page = str(data / "test" / "001.png"), tmp_path / "report.html"
    options = ["--units", "1", "--saliency", "1", "--budget", "8", "--min-score", "0"]
    assert main(["explain", str(run), image, "--out", str(page), *options]) == 0
    assert f"wrote {page} (" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "001.png, run" in text


def test_explain_writes_statistics_of_a_data_set(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["explain", str(run), "--data", str(data), "--split", "test", "--images", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 images" in printed and "| body.layer3.1.conv2 |" in printed
    numbers = json.loads((out / "statistics.json").read_text(encoding="utf-8"))
    sizes = {row["size"]: row["filters"] for row in numbers["effective_dilation"] if row["filters"]}
    assert set(sizes) > {"background"}  # the boxes of the shapes were found
    assert {path.name for path in out.iterdir()} >= {"statistics.md", "effective_dilation.png", "offset_health.png"}


def test_explain_refuses_points_layers_and_runs_that_do_not_fit(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["explain", str(run), str(data / "test" / "001.png"), "--out", str(tmp_path / "e.png")]
    line = _fails(capsys, [*common, "--at", f"{WIDTH},3"])
    assert line.startswith(f"pliant: at: must lie in the image of {WIDTH} x {HEIGHT} pixels; got {WIDTH},3")
    line = _fails(capsys, [*common, "--at", "3,3", "--layer", "body.layer3.1.conv3"])
    assert "layer: must be one of body.layer3.0.conv1" in line
    assert "Did you mean 'body.layer3.1.conv2'" in line
    line = _fails(capsys, [*common, "--detection", "9999"])
    assert re.match(r"pliant: detection: must be one of \d+ detections of the image; got 9999; give --at X,Y", line)
    line = _fails(capsys, [*common[:2], "--out", str(tmp_path / "e.png")])
    assert line.startswith("pliant: image: either an IMAGE or --data must be given; got neither; give one")
    line = _fails(capsys, [*common[:3], "--out", str(tmp_path / "e.txt")])
    assert line.startswith("pliant: out: must end in .html, .htm, .png, .jpg, .svg, .pdf; got ")


def test_a_resumed_complete_run_stays_complete(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(run)]) == 0
    assert "resumed after step 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["train", "--data", "x", "--bakbone", "r"],
            "pliant train: unknown argument '--bakbone'. Did you mean '--backbone'?",
        ),
        (["trian"], "pliant: argument COMMAND: invalid choice: 'trian'"),
        ([], "pliant: the following arguments are required: COMMAND"),
        (["train", "--out", "r"], "pliant: data: must name the folder of the data set; got nothing; add --data DIR"),
        (["train", "--data", "d"], "pliant: out: must name the folder of the run; got nothing; add --out RUN"),
        (["train", "--data", "d", "--lr", "quick"], "pliant train: argument --lr: invalid number value: 'quick'"),
        (["train", "--data", "d", "--epochs", "0", "--out", "r"], "pliant: epochs: must be at least 1; got 0"),
        (
            ["train", "--resume", "r", "--lr", "1"],
            "pliant: resume: must come with epochs, steps, data, workers, device or nothing; the other settings are ",
        ),
        (["train", "--config", "none.json", "--out", "r"], "pliant: config: must be a JSON file; got none.json"),
        (
            ["train", "--recipe", "v2-rfcn", "--out", "r"],
            "pliant: recipe: must name a recipe; got 'v2-rfcn'; `pliant train --list-recipes` lists them.",
        ),
        (
            ["train", "--data", "d", "--out", "r", "--model", "deeplab", "--ohem", "9"],
            "pliant: ohem: must be left out with the model 'deeplab'; it is for faster-rcnn and faster-rcnn-dc5 and ",
        ),
        (
            ["train", "--data", "d", "--out", "r", "--step-images", "16", "--accumulate", "2"],
            "pliant: step_images: must come without accumulate; got accumulate 2; give one of the two",
        ),
        (
            ["train", "--data", "d", "--out", "r", "--step-images", "15", "--device", "cpu"],
            "pliant: step_images: must be a multiple of batch_size x processes, 2 x 1; got 15;",
        ),
        (["eval", "none"], "pliant: run: must be a run folder with config.json; got none"),
        (
            ["eval", "r", "--workers", "-1"],
            "pliant eval: argument --workers: must be an integer of at least 0; got '-1'",
        ),
        (["explain", "r", "i", "--at", "3", "--out", "p"], "pliant explain: argument --at: must be X,Y in pixels"),
        (
            ["predict", "r", "i", "--out", "o", "--min-score", "2"],
            "pliant predict: argument --min-score: must be a number",
        ),
        (
            ["predict", "r", "none.jpg", "--out", "o"],
            "pliant: images: must be files, folders or patterns; got none.jpg",
        ),
        (
            ["plan", "--model", "resnet51", "--deform", "c5"],
            "pliant: backbone: must name a classification network of torchvision or timm; got 'resnet51'",
        ),
        (["plan", "--model", "resnet18", "--deform", "conv9"], "pliant: where: must match the name of a convolution"),
        (["demo", "--steps", "0"], "pliant demo: argument --steps: must be an integer of at least 1; got '0'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _fails(capsys, arguments).startswith(line)


def test_data_that_are_not_there_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = _fails(capsys, ["train", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")])
    assert str(tmp_path / "none") in line
    assert not (tmp_path / "run").exists()


def test_offset_groups_that_do_not_fit_are_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [
        "train",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        *SETTINGS.split(),
        "--offset-groups",
        "7",
    ]
    assert "offset_groups" in _fails(capsys, arguments).split("warning")[0]


def test_plan_prints_thirteen_layers_of_resnet50(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "resnet50", "--deform", "c3-c5"]) == 0
    out = capsys.readouterr().out
    assert out.count("DeformConv2d") == 13
    assert "layer2.0.conv2" in out


HIDDEN = ("torchvision", "timm", "accelerate", "rich", "safetensors", "matplotlib", "faster_coco_eval", "PIL")
WITHOUT_OTHERS = """
import contextlib, io, json, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Hide())
from pliant.cli import main
for arguments in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        status = main(arguments)
    print(json.dumps([status, said.getvalue()]))
"""
WITH_TORCH_ALONE = (
    (["env"], 0, "deform_conv2d"),
    (["train", "--data", "d", "--out", "r"], 2, "pliant train needs the package 'torchvision'"),
    (["predict", "r", "i", "--out", "o"], 2, 'pip install "pliant[train]"'),
    (["demo"], 2, 'pip install "pliant[train]"'),
)


def test_with_torch_alone() -> None:
    code = WITHOUT_OTHERS.format(hidden=HIDDEN, commands=[arguments for arguments, *_ in WITH_TORCH_ALONE])
    found = [json.loads(line) for line in output_of(code).splitlines()]
    for (status, said), (arguments, expected, text) in zip(found, WITH_TORCH_ALONE, strict=True):
        assert (status, text in said) == (expected, True), (arguments, said)


def test_python_m_pliant_is_env() -> None:
    source = str(Path(sys.modules["pliant"].__file__ or "").parents[1])
    command = [sys.executable, "-m", "pliant"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": source})
    assert f"torch {torch.__version__}" in done.stdout
    assert re.search(r"deform_conv2d +reference \(any device\) +yes", done.stdout)
    project = tomllib.loads((Path(source).parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    packages = {
        re.split(r"[>=]", line)[0] for name in ("train", "tensorboard", "video", "export") for line in extras[name]
    }
    assert all(f"{package} " in done.stdout for package in packages)
