"""`certify` end to end on small references: gates that hold, gates that a broken method fails, files, exit codes."""

import csv
import dataclasses as dc
import json
import math
from pathlib import Path

import pytest
import torch

from sciinv.certify import references, run, table
from sciinv.certify.affine import is_affine
from sciinv.certify.claims import judge, judge_evidence
from sciinv.certify.evidence import Evidence, evidence_ratio
from sciinv.certify.measure import measure
from sciinv.certify.settings import Budget
from sciinv.certify.stream import OneStream
from sciinv.cli import main
from sciinv.samplers import DPS, METHODS, MMPS, PnPDM, sample
from sciinv.samplers.base import State
from sciinv.samplers.smc import Population

EXACT = "sciinv.samplers.exact.fake"  # the family of a method is the folder of its module


class PriorOnly(MMPS):
    """Says that it is exact and ignores the data."""

    name = "prior_only"
    claims = "exact"
    __module__ = EXACT

    def posterior_mean(self, problem, prior, x, t, rng):
        d = prior.denoise(x, t)
        return d, d, {}


class Ideal(Population):
    """Draws the posterior exactly, by being told it; evidence included."""

    name = "ideal"
    paper = ""
    claims = "exact as particles grow"
    requires = frozenset({"linear"})
    __module__ = EXACT

    def grid(self, prior):
        return [1.0, 0.0]

    def init(self, problem, prior, rng, like):
        return self.start(like)

    def step(self, problem, prior, state, t, s, rng):
        law = prior.prior.posterior(problem.operator, problem.y, problem.noise.sigma)
        state, info = self.reweigh(state, torch.zeros_like(state.log_w) + law.log_evidence, rng, 0.0)
        x = law.draw(rng)
        return State(x.view_as(state.x).to(state.x.dtype), state.log_w, state.aux), info


class Shifted(Ideal):
    """The same, moved: no number of particles makes it right."""

    name = "shifted"
    __module__ = EXACT

    def finish(self, problem, prior, state, rng):
        return super().finish(problem, prior, state, rng) + 0.7


def small() -> dict:
    return {
        "gaussian": [references.gaussian_dense()],
        "overlap-d8-m2": [references.mixture(8, 2, seed, spacing=2.0) for seed in range(2)],
    }


@pytest.fixture(scope="module")
def certificate() -> run.Certificate:
    told = run.certify({"ideal": Ideal, "shifted": Shifted, "prior_only": PriorOnly}, True, references=small())
    gaussian = {"gaussian": small()["gaussian"]}
    ours = run.certify({"mmps": MMPS, "dps": DPS}, True, references=gaussian)
    return run.Certificate(ours.records + told.records, ours.verdicts + told.verdicts, {}, 1.0)


def outcome(certificate: run.Certificate) -> dict[str, str]:
    return {v.method: v.outcome for v in certificate.verdicts if "evidence" not in v.gate}


def test_gates_hold_for_the_right_and_fail_for_the_wrong(certificate) -> None:
    assert outcome(certificate) == {
        "mmps": "held", "dps": "nothing to refute", "ideal": "held", "shifted": "refuted", "prior_only": "refuted",
    }  # fmt: skip
    assert [v.method for v in certificate.refuted] == ["shifted", "prior_only"]


def test_an_ideal_method_is_at_the_floor(certificate) -> None:
    rows = [r for r in certificate.records if r.method == "ideal" and r.reference.startswith("overlap")]
    assert len(rows) == 2 and rows[1].error < rows[0].error
    for row in rows:
        assert 0.8 < row.over_floor < 1.25 and row.coverage_90 == pytest.approx(0.9, abs=0.03)
        assert row.log_evidence_error == pytest.approx(0, abs=1e-4)
        assert row.mode_error < 3 * row.mode_floor and row.c2st < 0.6
        assert row.problems == 2 and not row.exact_law


def test_affine_methods_get_their_exact_law(certificate) -> None:
    rows = [r for r in certificate.records if r.reference == "gaussian"]
    assert {r.method for r in rows if r.exact_law} == {"mmps", "prior_only"}
    errors = [r.cov_error for r in rows if r.method == "mmps"]
    assert errors[1] < 0.5 * errors[0]


def test_affine_probe_sees_a_norm_and_a_branch() -> None:
    ref = references.gaussian_dense()
    assert is_affine(MMPS(steps=20), ref.problem, ref.prior)
    assert not is_affine(DPS(steps=20), ref.problem, ref.prior)

    class Branching(MMPS):
        def posterior_mean(self, problem, prior, x, t, rng):
            rng.uniform()
            return super().posterior_mean(problem, prior, x, t, rng)

    assert not is_affine(Branching(steps=5), ref.problem, ref.prior)


def test_one_stream_has_rows_of_its_own_and_can_be_resumed() -> None:
    one = OneStream(3, range(4))
    state = one.state()
    x = one.normal((2,), torch.complex64)
    assert x.shape == (4, 2) and x.is_complex() and len(x.real.flatten().unique()) == 8
    one.set_state(state)
    assert torch.equal(x, one.normal((2,), torch.complex64))
    assert not torch.equal(one.uniform(), OneStream(3, range(4, 8)).uniform())
    ref = references.gaussian_dense()
    halves = sample(MMPS(steps=5), ref.problem, ref.prior, 4, 0, chunk=2, rng_factory=OneStream).x
    assert len(halves.flatten().unique()) == 24


def test_gate_takes_the_floor_of_a_growing_population_off() -> None:
    """A bias of one floor and a half stays: the error falls only as far as its floor does."""

    @dc.dataclass
    class Row:
        budget: str
        floor: float
        error: float
        reference: str = "overlap-d8-m2"
        exact_law: bool = False
        mean_error: float = 0.0

        @property
        def over_floor(self):
            return self.error / self.floor

    biased = [Row("128", 0.2, 0.5), Row("512", 0.1, 0.34)]
    assert judge("m", "exact", "exact", biased).outcome == "refuted"
    converging = [Row("128", 0.2, 0.8), Row("512", 0.1, 0.4)]
    assert judge("m", "exact", "exact", converging).outcome == "falling"
    assert judge("m", "exact", "exact", [Row("512", 0.1, 0.19)]).outcome == "held"
    assert judge("m", "exact", "exact", []).outcome == "not tested"
    assert judge("m", "exact", "exact", biased, {"overlap-d8-m2"}).outcome == "not tested"
    assert judge("m", "explicit", "approximate", biased).outcome == "nothing to refute"
    assert judge("m", "exact", "no exact limit: no weights", biased).outcome == "nothing to refute"
    assert judge("m", "exact", "exact without measurement noise", biased).outcome == "not tested"


def test_evidence_is_judged_by_its_mean_and_not_by_its_logarithm() -> None:
    estimates = {
        outcome: [Evidence("m", "gaussian", 64, 256, ratio, 0.02)]
        for outcome, ratio in (("held", 1.05), ("refuted", 1.07))
    }
    for expected, found in estimates.items():
        assert judge_evidence("m", "exact", "exact; unbiased evidence", found).outcome == expected
    of_its_own = "unbiased evidence of the discretised prior"
    assert judge_evidence("m", "exact", of_its_own, estimates["refuted"]).outcome == "nothing to refute"
    assert judge_evidence("m", "exact", "exact", []) is None


def test_evidence_ratio_of_a_method_that_knows_it_and_of_one_that_is_off() -> None:
    ref = references.gaussian_dense()
    found = evidence_ratio(Ideal(), ref, 4, 16)
    assert found.ratio == pytest.approx(1, abs=1e-9)
    moved = dc.replace(ref, log_evidence=ref.log_evidence - 0.5)
    assert evidence_ratio(Ideal(), moved, 4, 16).ratio == pytest.approx(math.exp(0.5))
    real = evidence_ratio(METHODS["tds"](steps=60), ref, 10, 128)
    assert real.passes and 0 < real.standard_error < 0.1
    assert not dc.replace(real, ratio=real.ratio + 0.4).passes


def test_methods_that_do_not_fit_are_skipped_with_the_reason() -> None:
    found = run.certify({"mmps": MMPS}, True, references={"ring": [references.ring()]})
    assert not found.records and found.skipped == {"mmps": {"ring": "needs linear"}}
    assert outcome(found) == {"mmps": "not tested"}


def test_a_budget_that_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PATIENCE", {True: (1e-9, 1e-9)})
    found = run.certify({"dps": DPS}, True, references={"ring": [references.ring()]})
    assert [r.budget for r in found.records] == ["50 steps"]
    assert "took" in found.skipped["dps"]["ring, 200 steps"]


@pytest.mark.parametrize(("patience", "most"), [(1e-9, 1), (1e9, 2)])
def test_patience_is_in_the_hands_of_the_caller(monkeypatch: pytest.MonkeyPatch, patience: float, most: int) -> None:
    other = 1 / patience  # what would be allowed otherwise gives the other answer
    monkeypatch.setattr(run, "PATIENCE", {True: (other, other)})
    found = run.certify({"dps": DPS}, True, references={"ring": [references.ring()]}, patience=patience)
    assert len(found.records) == most


def test_nonlinear_reference_is_measured_against_quadrature() -> None:
    row = measure(Budget("b", DPS(steps=40), 200), [references.banana()])
    assert row.over_floor > 3 and row.coverage_90 < 0.6  # dps ignores the noise level


def test_files(certificate, tmp_path: Path) -> None:
    paths = table.write(certificate, tmp_path / "new", ["sciinv", "certify", "--fast"])
    assert [p.name for p in paths] == [f"certificate.{end}" for end in ("json", "csv", "md", "png")]
    body = json.loads(paths[0].read_text())
    assert body["command"] == "sciinv certify --fast" and body["environment"]["packages"]["torch"] and body["date"]
    assert body["claims_refuted"] == 2 and len(body["records"]) == len(certificate.records)
    rows = list(csv.DictReader(paths[1].open()))
    assert {r["method"] for r in rows} == {r.method for r in certificate.records}
    assert float(rows[0]["over_floor"]) == pytest.approx(certificate.records[0].over_floor)
    assert "| shifted | exact |" in paths[2].read_text() and "refuted" in paths[2].read_text()
    assert paths[3].read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "new").glob(".*"))


def test_calibration_is_part_of_the_full_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SIMULATIONS", {False: 60, True: 20})
    monkeypatch.setattr("sciinv.certify.settings.GROWTH", {False: (0.1, 0.2)})
    found = run.certify({"pnpdm": PnPDM}, False, references={"gaussian": [references.gaussian_dense()]})
    (row,) = found.calibrations
    assert "rho_min 0.02" in row.budget  # a fifteenth of the reference's noise level, not the default width
    assert row.simulations == 60 and 0 <= row.sbc_p <= 1 and row.tarp_limit > row.tarp
    assert "60 x 63" in table.markdown(found, table.document(found))


class InTurn:
    """A pool without processes."""

    def __init__(self, workers, context):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def certified(fast: bool = True) -> tuple[run.Certificate, run.Certificate, list]:
    """Two methods in one process, and shared out."""
    told: list = []
    names = ("mmps", "dps")
    whole = run.certify({n: METHODS[n] for n in names}, fast)
    return whole, run.shared_out(names, fast, 2, on_record=told.append), told


def check_equal(whole: run.Certificate, parts: run.Certificate, told: list) -> None:
    def timeless(records):
        return [dc.replace(r, seconds=0.0) for r in records]

    assert timeless(parts.records) == timeless(whole.records) == timeless(told) and whole.records
    assert sorted(map(str, parts.verdicts)) == sorted(map(str, whole.verdicts))
    assert parts.skipped == whole.skipped and parts.evidences == whole.evidences


def test_methods_shared_out_give_the_same_certificate(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    run._references.cache_clear()
    monkeypatch.setattr(run, "ProcessPoolExecutor", InTurn)
    try:
        check_equal(*certified())
    finally:
        run._references.cache_clear()


@pytest.mark.slow
def test_methods_in_processes_give_the_same_certificate() -> None:
    check_equal(*certified())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciinv.certify.settings.GROWTH", {True: (0.1, 0.4)})
    monkeypatch.setattr(run, "suite", lambda fast: {"gaussian": small()["gaussian"]})


def test_command_ends_with_json(quick, capsys, tmp_path: Path) -> None:
    assert main(["certify", "mmps", "--fast", "--json", "-", "-o", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert last["claims_refuted"] == 0 and last["methods"]["mmps"]["outcome"] == "held"
    assert "mmps on gaussian, 40 steps" in err and (tmp_path / "certificate.md").is_file()


def test_command_fails_when_a_claim_does(quick, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "prior_only", PriorOnly)
    assert main(["certify", "prior_only", "--fast", "--json", "-", "--quiet"]) == 7
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert last["claims_refuted"] == 1 and last["refuted"] == ["prior_only"]
    assert "claims of 1 methods are refuted" in err and "prior_only" in err


def test_command_knows_families(quick, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(METHODS) - {"mmps", "dps", "pnpdm"}:
        monkeypatch.delitem(METHODS, name)
    assert main(["certify", "--family", "explicit", "--fast", "--quiet", "--json", "-", "--jobs", "1"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(last["methods"]) == {"mmps", "dps"}
    assert main(["certify", "--family", "magic"]) == 2
    assert main(["certify", "mmps", "--family", "exact"]) == 2
    assert main(["certify", "nonsense"]) == 2
