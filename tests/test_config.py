"""Settings: precedence, validation by dataclass fields, refusals that name the key and what was meant."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest
import tiny

from sciinv import config
from sciinv.errors import InputError, SciinvError, UsageError
from sciinv.samplers import METHODS, PnPDM


def test_defaults_then_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "samples: 3\nseed: 3\nlevel: 0.8\nchunk: 3\nsampler: {rho_min: 0.03, anneal: 3}\ntiny: {noise: 0.3}\n"
    )
    environ = {"SCIINV_SEED": "4", "SCIINV_CHUNK": "4", "SCIINV_DATA": "/somewhere"}
    words = ["anneal=5", "tiny.acceleration=2"]
    found = config.resolve({"chunk": 5, "method": None}, file=file, settings=words, environ=environ, domains=["tiny"])
    assert (found.samples, found.level, found.seed, found.chunk, found.method) == (3, 0.8, 4, 5, "pnpdm")
    assert found.sampler == {"rho_min": 0.03, "anneal": 5}
    assert found.options == {"tiny": {"noise": 0.3, "acceleration": 2}}


def test_a_sampler_is_built_from_its_fields_with_conversion() -> None:
    made = config.build(PnPDM, {"rho_min": "0.05", "anneal": 3.0}, "pnpdm")
    assert (made.rho_min, made.anneal, made.stationary) == (0.05, 3, PnPDM.stationary)
    assert config.build(PnPDM, config.as_dict(made), "pnpdm") == made


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_survives_the_round_trip_through_its_settings(name: str) -> None:
    made = METHODS[name]()
    assert config.build(METHODS[name], config.as_dict(made), name) == made


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rho_mn": 0.1}, ["there is no setting 'rho_mn'", "Try: rho_min"]),
        ({"anneal": 2.5}, ["anneal is 2.5", "integer"]),
        ({"rho_min": "small"}, ["rho_min is small", "number"]),
        ({"rho_min": float("nan")}, ["rho_min", "finite"]),
        ({"rho_min": 2.0}, ["pnpdm settings are impossible", "rho_min"]),
    ],
)
def test_a_wrong_setting_is_named(values: dict, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        config.build(PnPDM, values, "settings of pnpdm")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "unknown_key: 1",
        "samples: 0",
        "samples: many",
        "level: 1.0",
        "device: tpu",
        "sampler: 3",
        "tiny: [1]",
        "- 1",
        "seed: -1",
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises((UsageError, InputError)):
        config.resolve({}, file=file, environ={}, domains=["tiny"])


@pytest.mark.parametrize("word", ["rho_min", "=3", "nowhere.key=3", "a.b.c=1"])
def test_a_wrong_word_of_set_is_refused(word: str) -> None:
    with pytest.raises(SciinvError):
        config.resolve({}, settings=[word], environ={}, domains=["tiny"])


def test_set_values_are_data_never_code() -> None:
    with pytest.raises(InputError):
        config.parse_setting("x=!!python/object/apply:os.system ['true']", [])


@pytest.mark.parametrize(
    ("text", "expected"), [(None, [0, 1, 2, 3, 4]), ("0,3-4", [0, 3, 4]), ("2", [2]), (" 1 , 1", [1])]
)
def test_slices(text: str | None, expected: list[int]) -> None:
    assert config.parse_slices(text, 5) == expected


@pytest.mark.parametrize("text", ["5", "3-1", "a", "", "0-9", "-1"])
def test_impossible_slices(text: str) -> None:
    with pytest.raises(UsageError):
        config.parse_slices(text, 5)


def test_keywords_come_from_the_signature() -> None:
    def simulate(source: str, *, snr: float = 40.0, coils: int = 8) -> None: ...

    assert config.keywords(simulate, {"coils": "4"}, "simulate") == {"coils": 4}
    with pytest.raises(UsageError, match="snr"):
        config.keywords(simulate, {"sn": 1}, "simulate")


def test_fields_are_json_ready_and_paths_lose_their_folder() -> None:
    @dc.dataclass(frozen=True)
    class Options:
        file: Path = Path("/home/doe/mask.npy")
        sizes: tuple[int, int] = (1, 2)

    assert config.as_dict(Options()) == {"file": "mask.npy", "sizes": [1, 2]}
    assert config.as_dict(tiny.TinyOptions())["mode"] == "plain"
