"""Results as text, HTML, data frames, one line, and JSON."""

import json
import sys

import equinox as eqx
import numpy as np
import pytest

import eqsym as eqs
from eqsym._estimator.chain_mixing import Mixing
from eqsym._estimator.decomposition import Sector
from eqsym._estimator.expectation import Observed, PostHocObserved
from eqsym._estimator.noise import GradientNoise, Scatter
from eqsym._estimator.scans import TranslationScan


def _mixing(rhat=1.02):
    return Mixing(rhat, 1.03, 1.01, 1.06, 1.1, 0.5, False, 20)


def _evaluation(energy=-8.516, **changes):
    return eqs.Evaluation(
        **{
            "energy": eqs.Estimate(energy, 0.0015),
            "variance": eqs.Estimate(0.4, 0.02),
            "kinetic": eqs.Estimate(8.0, 0.1),
            "potential": eqs.Estimate(-16.5, 0.1),
            "imaginary": eqs.Estimate(0.0, 0.001),
            "symmetry": None,
            "samples": 6400,
            "invalid_samples": 0,
            "mixing": _mixing(),
            **changes,
        }
    )


_EVALUATION = _evaluation()
_WEIGHT = eqs.Estimate(0.993, 0.0005)
_POST_HOC = eqs.PostHoc(
    _EVALUATION, _evaluation(-8.522), eqs.Estimate(-0.00588, 0.00068), _WEIGHT
)
_NOTHING = eqs.PostHoc(_EVALUATION, None, None, eqs.Estimate(0.0, 1e-3))
_SECTORS = eqs.Sectors(
    (
        Sector("A'1", 1, _WEIGHT, _EVALUATION.energy, eqs.Estimate(-0.03, 0.002)),
        Sector("E<", 2, eqs.Estimate(0.007, 0.0005), None, None),
    ),
    _EVALUATION.energy,
    6400,
    3,
    _mixing(1.2),
)
_TWISTS = eqs.twist_average([_EVALUATION, _evaluation(-8.4)], np.array([0.25, 0.75]))
_NOISE = GradientNoise(
    gradient=Scatter(0.5, eqs.Estimate(1.25, 0.1)),
    update=Scatter(0.25, eqs.Estimate(0.5, 0.05)),
    walkers=64,
    repeats=9,
    rejected=1,
)
_RESULTS = {
    "Evaluation": _EVALUATION,
    "PostHoc": _POST_HOC,
    "PostHoc without an average": _NOTHING,
    "Sectors": _SECTORS,
    "TwistAverage": _TWISTS,
    "GradientNoise": _NOISE,
    "table": eqs.table({"a": _EVALUATION, "b": None}),
}


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "Evaluation",
            "Evaluation(energy=-8.5160(15) Ha, variance=0.400(20) Ha^2, 6400 samples)",
        ),
        (
            "PostHoc",
            "PostHoc(plain=-8.5160(15) Ha, averaged=-8.5220(15) Ha, "
            "averaged - plain=-0.00588(68) Ha, weight=0.99300(50))",
        ),
        (
            "PostHoc without an average",
            "PostHoc(plain=-8.5160(15) Ha, averaged=None, averaged - plain=None, "
            "weight=0.0000(10))",
        ),
        (
            "Sectors",
            "Sectors(plain=-8.5160(15) Ha, 2 sectors, largest weights "
            "A'1 0.99300(50), E< 0.00700(50))",
        ),
        ("TwistAverage", "TwistAverage(energy=-8.4290(12) Ha, 2 twists)"),
        (
            "GradientNoise",
            "GradientNoise(gradient: norm=0.5, deviation=1.25(10); "
            "update: norm=0.25, deviation=0.500(50); 9 batches)",
        ),
    ],
)
def test_one_line(name, text):
    assert repr(_RESULTS[name]) == text
    # All that is inside.
    assert "samples=6400" in eqx.tree_pformat(_POST_HOC)


def test_parts_in_one_line():
    assert repr(_SECTORS["E<"]) == (
        "Sector(E<, dimension=2, weight=0.00700(50), energy=None, minus plain=None)"
    )
    assert repr(_mixing()) == "Mixing(mixed, R-hat 1.02, burn_in=20)"
    assert repr(_mixing(1.2)) == (
        "Mixing(not mixed, R-hat 1.20, energy 1.20 > 1.06, burn_in=20)"
    )
    assert "chains not mixed" in repr(_evaluation(mixing=_mixing(1.2)))


@pytest.mark.parametrize("name", _RESULTS)
def test_rows_are_the_same_in_text_html_and_frame(name):
    found = _RESULTS[name]
    html, text = found._repr_html_(), str(found)
    pandas = pytest.importorskip("pandas")
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    rows = html.count("<tr>") - 1
    assert len(frame) == rows
    lines = text.splitlines()[1 : 1 + rows]
    if name != "Evaluation":
        assert [line.split()[0] for line in lines] == list(frame.index)
    for line in lines:
        for word in line.split():
            assert word.replace("<", "&lt;").replace("'", "&#x27;") in html
    # What is below the table is its caption.
    for note in text.splitlines()[1 + rows :]:
        assert note in html


def test_vocabulary():
    assert [line.split()[0] for line in str(_POST_HOC).splitlines()] == [
        *("energy", "plain", "averaged", "averaged", "symmetric")
    ]
    assert "averaged - plain = -0.00588(68) Ha per cell" in str(_POST_HOC)
    assert "averaged - plain = -: the average is zero" in str(_NOTHING)
    head, plain, *_ = str(_SECTORS).splitlines()
    assert "minus plain [Ha]" in head and plain.split()[:2] == ["plain", "1"]


def test_numbers_of_a_frame():
    """Errors are columns of their own, and what is missing is not a number."""
    pytest.importorskip("pandas")
    frame = _POST_HOC.to_frame()
    assert frame.loc["averaged", "energy"] == -8.522
    assert frame.loc["averaged", "energy_error"] == 0.0015
    assert list(frame["weight"]) == [1.0, 0.993]
    assert frame["difference"].isna().tolist() == [True, False]
    assert frame["symmetry_error"].isna().all()
    assert list(frame["mixed"]) == [True, True]
    empty = _NOTHING.to_frame().loc["averaged"]
    assert empty.drop(["weight", "weight_error"]).isna().all()
    sectors = _SECTORS.to_frame()
    assert sectors.loc["E<", "dimension"] == 2
    assert not sectors["mixed"].any() and (sectors["invalid_samples"] == 3).all()
    assert sectors["energy"].isna().tolist() == [False, False, True]
    assert list(_TWISTS.to_frame()["weight"][:2]) == [0.25, 0.75]
    assert list(_NOISE.to_frame()["deviation_error"]) == [0.1, 0.05]
    assert all(frame[name].dtype == float for name in frame if "error" in name)


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="need pandas.*install it"):
        _POST_HOC.to_frame()
    assert str(_POST_HOC) and _POST_HOC._repr_html_()


@pytest.mark.parametrize("name", sorted({*_RESULTS} - {"table"}))
def test_json(name):
    found = _RESULTS[name]
    read = json.loads(json.dumps(found.to_dict()))
    assert read == found.to_dict()
    assert list(read) == list(vars(found))


def test_json_of_sectors_is_by_label():
    found = _SECTORS.to_dict()["sectors"]
    assert found["E<"] == {
        "dimension": 2,
        "weight": {"mean": 0.007, "error": 0.0005},
        "energy": None,
        "difference": None,
    }
    assert _NOISE.to_dict()["update"]["deviation"] == {"mean": 0.5, "error": 0.05}
    assert _TWISTS.to_dict()["weights"] == [0.25, 0.75]
    assert _TWISTS.to_dict()["evaluations"][1]["energy"]["mean"] == -8.4


def test_observed_quantities():
    many = Observed(np.array([[1.0, 2.0]]), np.array([[0.1, 0.2]]), 6400, 0)
    one = Observed(np.array(3.0), np.array(0.1), 6400, 0)
    assert repr(many) == "Observed(shape (1, 2), 6400 samples)"
    assert repr(one) == "Observed(3.00(10), 6400 samples)"
    both = PostHocObserved({"rho": many}, {"rho": many}, None, None, _WEIGHT)
    assert repr(both) == ("PostHocObserved(plain, mixture of rho; weight=0.99300(50))")
    pytest.importorskip("pandas")
    assert many.to_frame().to_dict("list") == {"mean": [1, 2], "error": [0.1, 0.2]}
    assert len(one.to_frame()) == 1


def test_a_scan_is_one_line():
    points = np.zeros((3, 3))
    scan = TranslationScan(points, None, np.zeros(3), np.zeros((2, 3)))
    assert repr(scan) == "TranslationScan(3 x 3 points, without local energies)"
