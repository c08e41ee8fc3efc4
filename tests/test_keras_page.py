"""docs/keras.md is true: every option of Keras is in its table, and what it calls refused is refused."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras_networks import NOT_IN_LITERT

from tfcomp.errors import InputError
from tfcomp.models.autoencoder import AutoEncoder

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "keras.md").read_text(encoding="utf-8")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 6, 1), np.uint8)
# A value of each option that Keras itself would take.
VALUES = {
    "loss": "mse",
    "metrics": ["mae"],
    "weighted_metrics": ["mae"],
    "loss_weights": [1.0],
    "class_weight": {0: 1.0},
}


def rows() -> dict[tuple[str, str], str]:
    """The state, by method and option."""
    found = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (works|refused) \|", PAGE, re.MULTILINE)
    return {(method, name): state for name, methods, state in found for method in re.findall(r"`(\w+)`", methods)}


def small() -> AutoEncoder:
    return AutoEncoder.dense((8, 6, 1), 3, hidden=(8,))


@pytest.mark.parametrize("method", ["compile", "fit", "evaluate", "predict", "train_on_batch"])
def test_every_option_of_keras_is_in_the_table_and_in_the_same_order(method: str) -> None:
    own, kerass = (inspect.signature(getattr(owner, method)).parameters for owner in (AutoEncoder, keras.Model))
    options = [name for name in kerass if name not in ("self", "kwargs")]
    assert [name for name in own if name not in ("self", "kwargs")] == options
    assert {name for of, name in rows() if of == method} == set(options)


@pytest.mark.parametrize("place", [place for place, state in rows().items() if state == "refused"], ids=":".join)
def test_what_the_table_calls_refused_is_refused(place: tuple[str, str]) -> None:
    method, name = place
    model = small()
    model.compile("sgd")
    data = () if method == "compile" else (IMAGES,)
    with pytest.raises(InputError, match=name):
        getattr(model, method)(*data, **{name: VALUES[name]})


def test_layers_that_litert_lacks_are_named() -> None:
    listed = PAGE[PAGE.index("LiteRT lacks") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == NOT_IN_LITERT


# === Settings ===


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (keras.config, "image_data_format", "channels_first"),
        (keras.config, "floatx", "float16"),
        (keras.config, "floatx", "bfloat16"),
        (keras.config, "floatx", "float64"),
        (keras.backend, "backend", "torch"),
        (keras.backend, "backend", "numpy"),
    ],
)
def test_settings_that_models_cannot_be_made_under_are_refused(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, value: str
) -> None:
    assert f"`{name}`" in PAGE
    parts = small()
    monkeypatch.setattr(owner, name, lambda: value)
    for make in (small, lambda: AutoEncoder(parts.encoder, parts.decoder), lambda: AutoEncoder.lapped((None, None, 3))):
        with pytest.raises(InputError, match=f"expected Keras's {name} to be .*, found {value}"):
            make()


@pytest.mark.further
@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        ('{"image_data_format": "channels_first"}', {}, "image_data_format to be channels_last, found channels_first"),
        (
            "{}",
            {"KERAS_BACKEND": "openvino"},
            "backend to be tensorflow, found openvino, by KERAS_BACKEND or keras.json",
        ),
    ],
)
def test_the_command_says_in_a_line_what_keras_is_set_up_for(
    tmp_path: Path, settings: str, variables: dict[str, str], message: str
) -> None:
    (tmp_path / "keras.json").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-m", "tfcomp", "train", "glyphs", "--epochs", "1", "--out", tmp_path / "run"],
        env={**os.environ, "KERAS_HOME": str(tmp_path), **variables}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
