"""A trained network and four real pictures, as a user has them: the model file and JPEGs, on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from coexec.cli.main import main

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
STRATEGIES = ["cpu", "gpu", "flops", "greedy", "coexec", *(f"fixed:gpu={r / 10:g}" for r in range(11))]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the trained network and its pictures are kept beside the project, in ../shared/data/mnist")


@pytest.fixture(autouse=True, scope="module")
def roughly_measured():
    """Where no test has measured this machine yet, it is done in seconds: what a picture shows does not depend on how it is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coexec.api.planning.QUICK_S", 4.0)
        yield


def classify(picture, strategy, capsys):
    code = main(["run", str(FOLDER / "opt-mnist.onnx"), "--image", str(picture), "--strategy", strategy, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    return next(iter(found["outputs"].values()))["top"][0]["index"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_four_pictures_are_what_they_are(strategy, capsys, tmp_path):
    for digit in (0, 3, 5, 7):
        assert classify(FOLDER / f"{digit}.jpg", strategy, capsys) == digit
    png = tmp_path / "five.png"
    Image.open(FOLDER / "5.jpg").save(png)
    assert classify(png, strategy, capsys) == 5
