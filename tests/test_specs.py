"""Every spec obeys the schema, accepts a minimal file, and rejects one mutation per rule, all of them at once."""

import dataclasses as dc
import json

import h5py
import numpy as np
import pytest
import yaml
from mri_files import coil_images, fft2, make_ismrmrd
from sciinv_mri import io

from sciinv.errors import InputError, UsageError
from sciinv.io.safe_yaml import parse_yaml
from sciinv.io.spec import (
    FieldView,
    Spec,
    check_spec,
    dtype_class,
    load_spec,
    schema_violations,
    specs_folder,
    violations,
)

NAMES = sorted(path.stem for path in specs_folder().glob("*.yaml"))


def minimal(spec: Spec) -> dict[str, FieldView]:
    """A header view that holds every field with the full dimensions, each name at its own size."""
    sizes = {}
    view = {}
    for field in spec.fields:
        shape = []
        for dim in field.dims or ():
            name = str(dim).rstrip("?")
            low, high = spec.sizes.get(name, (1, 100))
            shape.append(dim if isinstance(dim, int) else sizes.setdefault(name, min(high, low + 10 + len(sizes))))
        value = None if field.range is None else field.range[0]
        view[field.path] = FieldView(tuple(shape), field.dtype[0] if field.dtype else "float", value)
    return view


def test_there_are_the_promised_specs():
    assert {"fastmri", "ismrmrd", "npy-kspace", "nifti-magnitude"} <= set(NAMES)
    assert {reader.spec for reader in io.READERS.values()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_spec_accepts_its_minimal_file_and_rejects_each_mutation(name):
    spec = load_spec(name)
    assert spec.format == name and spec.cite and spec.about
    good = minimal(spec)
    assert violations(good, spec) == []
    tried = 0
    for field in spec.fields:
        seen = good[field.path]
        mutations = []
        if field.required:
            mutations.append({key: value for key, value in good.items() if key != field.path})
        if field.dtype:
            mutations.append(good | {field.path: dc.replace(seen, dtype="other")})
        if field.dims is not None:
            mutations.append(good | {field.path: dc.replace(seen, shape=(*seen.shape, 2, 2, 2))})
            for axis, dim in enumerate(field.dims):
                if not isinstance(dim, str) or dim.rstrip("?") in spec.sizes:
                    shape = list(seen.shape)
                    shape[axis] = 0
                    mutations.append(good | {field.path: dc.replace(seen, shape=tuple(shape))})
        if field.range is not None:
            mutations += [
                good | {field.path: dc.replace(seen, value=value)} for value in (field.range[0] - 1, float("nan"), "x")
            ]
        else:
            assert not any(field.path in text for text in violations(good, spec))
        for mutation in mutations:
            found = violations(mutation, spec)
            assert found and any(field.path in text for text in found), (field.path, found)
        tried += len(mutations)
    assert tried


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_plain_yaml_for_either_parser(name, monkeypatch):
    text = (specs_folder() / f"{name}.yaml").read_text()
    fast = parse_yaml(text)
    monkeypatch.setattr("sciinv.io.safe_yaml._Loader", yaml.SafeLoader)
    assert parse_yaml(text) == fast == yaml.safe_load(text)


def test_names_unify_and_all_violations_come_at_once():
    spec = load_spec("fastmri")
    view = {
        "/kspace": FieldView((2, 3, 32, 24), "complex"),
        "/mask": FieldView((25,), "bool"),
        "/reconstruction_rss": FieldView((3, 16, 16), "float"),
        "/ismrmrd_header": FieldView((), "float"),
    }
    with pytest.raises(InputError) as caught:
        check_spec(view, spec, where="a.h5")
    text = str(caught.value)
    for part in (
        "/mask has ky = 25, but /kspace has ky = 24",
        "slice = 3",
        "/ismrmrd_header is float",
        "a.h5",
        "fastmri.yaml",
    ):
        assert part in text
    assert len(violations(view, spec)) == 3


def test_optional_axes_and_pairs():
    spec = load_spec("fastmri")
    for shape, kind in [((2, 32, 24), "complex"), ((2, 3, 32, 24), "complex"), ((2, 3, 32, 24, 2), "float")]:
        assert violations({"/kspace": FieldView(shape, kind), "/mask": FieldView((24,), "bool")}, spec) == []
    assert violations({"/kspace": FieldView((32, 24), "complex")}, spec)
    assert violations({"/kspace": FieldView((2, 3, 32, 24, 3), "float")}, spec)
    assert dtype_class(np.dtype([("real", "f4"), ("imag", "f4")])) == "complex"
    assert dtype_class(np.dtype([("a", "f4"), ("b", "f4")])) == "table" and dtype_class(np.dtype(">i2")) == "int"


def test_schema_finds_each_mistake():
    schema = json.loads((specs_folder() / "schema.json").read_text())
    good = yaml.safe_load((specs_folder() / "fastmri.yaml").read_text())
    assert schema_violations(good, schema, schema, "x") == []
    field = good["fields"][0]
    bad = [
        {key: value for key, value in good.items() if key != "cite"}, good | {"surprise": 1}, good | {"version": "1"},
        good | {"container": "zip"}, good | {"format": "Not A Name"}, good | {"fields": []}, good | {"version": True},
        good | {"sizes": {"x": [1]}}, good | {"sizes": {"x": [1, 2, 3]}},
        good | {"fields": [field | {"dtype": "quaternion"}]},
        good | {"fields": [field | {"dims": ["Bad Name"]}]}, good | {"fields": [{"path": "/x"}]}, [], None,
    ]  # fmt: skip
    for mutation in bad:
        assert schema_violations(mutation, schema, schema, "x"), mutation


def test_a_malformed_spec_is_refused_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("format: mine\ncontainer: hdf5\n")
    with pytest.raises(InputError, match=r"mine\.yaml.*lacks version"):
        load_spec("mine", tmp_path)
    with pytest.raises(UsageError):
        load_spec("../etc/passwd")


def test_validate_lists_everything_wrong_with_a_real_file(tmp_path):
    kspace = fft2(coil_images()).astype(np.complex64)
    path = io.write_fastmri(tmp_path / "a.h5", kspace)
    assert io.validate(path) == []
    with h5py.File(path, "r+") as file:
        file["mask"] = np.ones(30, bool)
        file["reconstruction_rss"] = np.ones((5, 8, 8), np.float32)
    found = io.validate(path)
    assert len(found) == 2 and "30" in found[0] and "slice = 5" in found[1]
    kspace[0, 0, 0, 0] = np.nan
    assert "NaN" in io.validate(io.write_fastmri(tmp_path / "b.h5", kspace))[0]


def test_the_group_of_an_ismrmrd_file_may_have_any_name(tmp_path):
    path = make_ismrmrd(tmp_path / "a.h5", fft2(coil_images()).astype(np.complex64))
    with h5py.File(path, "r+") as file:
        file.move("dataset", "scan_7")
    assert io.find_reader(path) == "ismrmrd" and io.validate(path) == [] and io.read(path).kspace.any()
