"""A trained network and four real pictures, as a user has them: the model file and JPEGs, on the command line.

MNIST's where they are kept beside the project; else of a network that is trained here, on digits that scikit-learn brings.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from coexec.cli.main import main

from .digits import trained

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
DIGITS = (0, 3, 5, 7)
STRATEGIES = ["cpu", "gpu", "flops", "greedy", "coexec", *(f"fixed:gpu={r / 10:g}" for r in range(11))]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The model's path; pictures lie beside it."""
    return FOLDER / "opt-mnist.onnx" if FOLDER.is_dir() else trained(tmp_path_factory.mktemp("digits"), DIGITS)


@pytest.fixture(autouse=True, scope="module")
def roughly_measured():
    """Where no test has measured this machine yet, it is done in seconds: what a picture shows does not depend on how it is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coexec.api.planning.QUICK_S", 4.0)
        yield


def classify(model, picture, strategy, capsys):
    code = main(["run", str(model), "--image", str(picture), "--strategy", strategy, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    return next(iter(found["outputs"].values()))["top"][0]["index"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_four_pictures_are_what_they_are(strategy, network, capsys, tmp_path):
    for digit in DIGITS:
        assert classify(network, network.with_name(f"{digit}.jpg"), strategy, capsys) == digit
    png = tmp_path / "five.png"
    Image.open(network.with_name("5.jpg")).save(png)
    assert classify(network, png, strategy, capsys) == 5
