"""Nothing that identifies a person leaves the input: canaries in every place where patient data hide, none in the
output.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
import tiny

from sciinv.cli import main
from sciinv.provenance import Scrubber, public_name

FAST = ["--samples", "2", "--set", "anneal=2", "--set", "stationary=0"]


def found(folder: Path, canaries: list[str]) -> list[str]:
    """Files under `folder` that hold a canary, compressed content included."""
    hits = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data += gzip.decompress(data)
        for canary in canaries:
            if canary.encode() in data or canary.encode("utf-16-le") in data or canary in path.name:
                hits.append(f"{path.name}: {canary}")
    return hits


def test_a_name_is_published_only_when_it_was_made_to_be() -> None:
    sha = "0123456789abcdef"
    assert public_name("/x/sub-01_ses-2_T1w.nii.gz", sha) == "sub-01_ses-2_T1w.nii.gz"
    assert public_name("/x/DOE^JOHN 1970.h5", sha) == "input-01234567.h5"
    assert public_name("/x/sub-01 John.h5", sha) == "input-01234567.h5"
    assert public_name("/x/doe.JOHN", sha) == "input-01234567"
    assert public_name("/x/doe.h5", sha, keep=True) == "doe.h5"


def test_the_scrubber_knows_every_way_a_path_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scrub = Scrubber()
    scrub.hide("JohnDoe.h5", "input-1.h5")
    for text in (str(tmp_path / "JohnDoe.h5"), "JohnDoe.h5: no signal", "see JohnDoe"):
        assert "JohnDoe" not in scrub(text)
    assert "smith" not in scrub("/home/smith/x and /Users/smith/y")
    assert scrub.tree({"a": ["JohnDoe.h5", 3]}) == {"a": ["input-1.h5", 3]}


def test_names_of_files_and_folders_stay_out(tmp_path: Path, monkeypatch, capsys) -> None:
    tiny.install(monkeypatch)
    folder = tmp_path / "CanaryFolder"
    folder.mkdir()
    file = tiny.make(folder / "CanaryName_1970-01-01.tny")
    config = folder / "CanaryConfig.yaml"
    config.write_text("samples: 2\n")
    out = tmp_path / "CanaryOut" / "out"
    canaries = ["CanaryName", "CanaryFolder", "CanaryOut", "CanaryConfig"]
    assert main(["reconstruct", str(file), "-o", str(out), "--config", str(config), *FAST]) == 0
    assert found(out, canaries) == []
    monkeypatch.setenv("TINY_UNUSABLE", "0")
    assert main(["reconstruct", str(file), "-o", str(out.with_name("partial")), *FAST]) == 5
    # an unfinished run must know where its input lies; nothing else in the folder does
    hits = found(out.with_name("partial"), canaries)
    assert hits and all(hit.startswith("resume.json") for hit in hits)
    assert main(["reconstruct", str(file), "-o", str(out.with_name("named")), *FAST, "--record-names"]) == 5
    assert any("provenance.json" in hit for hit in found(out.with_name("named"), canaries[:1]))


FIELDS = [
    "patientName", "patientID", "patientBirthdate", "patientGender", "studyDate", "studyTime", "accessionNumber",
    "referringPhysicianName", "studyDescription", "studyInstanceUID", "seriesDate", "seriesTime", "seriesDescription",
    "protocolName", "deviceSerialNumber", "institutionName", "stationName", "frameOfReferenceUID",
    "referencedSOPInstanceUID",
    "measurementID",
]  # fmt: skip


def with_canaries(path: Path, canaries: list[str]) -> None:
    """Put a canary into each field of the ISMRMRD header, into HDF5 attributes, a group name and a comment dataset."""
    import h5py

    tags = "".join(f"<{name}>{canary}</{name}>" for name, canary in zip(FIELDS, canaries, strict=False))
    rest = canaries[len(FIELDS) :]
    with h5py.File(path, "a") as file:
        xml = file["ismrmrd_header"][()].decode()
        head, mark, tail = xml.partition("<acquisitionSystemInformation>")
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = f"{head}<subjectInformation>{tags}</subjectInformation>{mark}{tail}".encode()
        for number, canary in enumerate(rest[:-2]):
            file.attrs[f"note{number}"] = canary
        file.attrs["patient_id"] = rest[-2]
        file["comment"] = rest[-1]
        file["kspace"].attrs["operator"] = canaries[0]


def test_patient_data_in_a_scanner_file_stay_out(tmp_path: Path, capsys) -> None:
    pytest.importorskip("sciinv_mri.problem")
    from sciinv_mri.simulate import simulate

    canaries = [f"CANARY{number:02d}X" for number in range(30)]
    folder = tmp_path / "in"
    folder.mkdir()
    file = simulate("phantom", folder / f"{canaries[29]}_{canaries[28]}.h5", slices=1, matrix=(48, 40), coils=4)
    with_canaries(file, canaries[:28])
    raw = file.read_bytes()
    assert all(canary.encode() in raw or canary.encode() in zlib.compress(raw) for canary in canaries[:28])
    out = tmp_path / "out"
    assert main(["reconstruct", str(file), "-o", str(out), *FAST, "--keep-work", "--fastmri"]) == 0
    (out / "work" / "resume.json").unlink(missing_ok=True)
    assert found(out, canaries) == []
    capsys.readouterr()
    assert main(["info", str(file), "--json"]) == 0
    shown = capsys.readouterr().out
    assert not any(canary in shown for canary in canaries)
    assert '"phi_present": true' in shown
