"""The operator algebra: composition, adjoints, decompositions through isometries, refusals."""

import math

import pytest
import torch

from sciinv.errors import MismatchError, Unsupported
from sciinv.generic.blur import Blur
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.diagonal import Diagonal
from sciinv.generic.fourier import Fourier
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.operator import Adjoint, Chain, Compose, Identity, LinearOperator, Scaled, Space, inner, to_real
from sciinv.rng import Rng
from sciinv.testing import check_operator

F64, C64, C128 = torch.float64, torch.complex64, torch.complex128


def normal(*shape, key=0, dtype=torch.float32):
    return Rng(13, [key]).normal(shape, dtype)[0]


class Gradient(LinearOperator):
    """A newcomer's operator: one method, everything else by default."""

    def __init__(self, n):
        super().__init__(Space((n,), C64), Space((n - 1,), C64))

    def forward(self, x):
        return (x[..., 1:] - x[..., :-1]) * (1 + 2j)


ALGEBRA = {
    "default-adjoint": lambda: Gradient(5),
    "adjoint": lambda: Dense(normal(3, 4)).H,
    "adjoint-by-class": lambda: Adjoint(Gradient(5)),
    "scaled": lambda: Scaled(Mask(normal(3, 4) > 0), -2.5),
    "scaled-isometry": lambda: Scaled(Fourier((3, 4)), -2.5),
    "identity": lambda: Identity(Space((3, 4), C64)),
    "mask-fourier": lambda: Mask(normal(3, 4) > 0, dtype=C64) @ Fourier((3, 4)),
    "mask-fourier-codec": lambda: Mask(normal(3, 4) > 0, dtype=C64) @ Fourier((3, 4)) @ ChannelsToComplex((3, 4), 2.0),
    "right-associated": lambda: Mask(normal(3, 4) > 0, dtype=C64) @ (Fourier((3, 4)) @ ChannelsToComplex((3, 4), 2.0)),
    "isometry-outside": lambda: Fourier((3, 4)) @ Diagonal(normal(3, 4, dtype=C64), dtype=C64),
    "both-isometries": lambda: Fourier((3, 4)) @ ChannelsToComplex((3, 4), 0.5),
    "no-isometry": lambda: Mask(normal(3, 4) > 0) @ Blur(normal(2, 2), (3, 4)),
    "normal-of-a-product": lambda: (Gradient(5) @ ChannelsToComplex((5,), 3.0)).H @ Gradient(5),
    "nonlinear-after-linear": lambda: PhaseRetrieval((3, 4)) @ Fourier((3, 4)),
    "linear-after-nonlinear": lambda: Dense(normal(2, 48), (6, 8)) @ PhaseRetrieval((3, 4)),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_contract(name):
    check_operator(ALGEBRA[name](), fake_cuda=False)


@pytest.mark.parametrize(
    ("name", "svd", "isometry"),
    [
        ("default-adjoint", False, None),
        ("scaled", True, None),
        ("scaled-isometry", True, 2.5),
        ("mask-fourier-codec", True, None),
        ("right-associated", True, None),
        ("isometry-outside", True, None),
        ("both-isometries", True, 0.5),
        ("no-isometry", False, None),
    ],
)
def test_capabilities_survive_exactly_what_they_should(name, svd, isometry):
    op = ALGEBRA[name]()
    assert op.has_svd() is svd and op.isometry == isometry
    assert op.capabilities() == {"linear", "differentiable"} | ({"svd"} if svd else set())


def test_matrix_of_a_product_is_the_product_of_matrices():
    a, b = Dense(normal(3, 6), (2, 3)), Blur(normal(2, 2), (2, 3))
    assert torch.allclose((a @ b).as_matrix(), a.as_matrix() @ b.as_matrix(), atol=1e-7)
    assert torch.allclose(Scaled(a, -2.0).as_matrix(), -2 * a.as_matrix())
    assert torch.allclose(Gradient(5).as_matrix(), Gradient(5).H.as_matrix().T)


def test_matrix_of_a_complex_operator_has_re_im_blocks():
    m = Diagonal(torch.tensor([1 + 2j, 3j]), dtype=C64).as_matrix()
    assert m.tolist() == [[1, -2, 0, 0], [2, 1, 0, 0], [0, 0, 0, -3], [0, 0, 3, 0]]


def test_composition_picks_its_kind_and_refuses_misfits():
    fourier, retrieval = Fourier((3, 4)), PhaseRetrieval((3, 4))
    assert isinstance(fourier @ fourier, Compose) and isinstance(retrieval @ fourier, Chain)
    assert "linear" not in (retrieval @ fourier).capabilities() and not (retrieval @ fourier).linear
    with pytest.raises(MismatchError, match="Fourier @ Mask"):
        fourier @ Mask(torch.ones(3, 4))  # real into complex
    with pytest.raises(MismatchError, match="Dense @ Fourier"):
        Dense(torch.ones(2, 12)) @ fourier


def test_adjoint_of_the_adjoint_is_the_operator():
    op = Gradient(5)
    assert op.H.H is op


def test_an_operator_without_a_decomposition_says_what_to_try():
    with pytest.raises(Unsupported, match=r"Gradient has no exact singular value.*Try"):
        Gradient(5).svd()


def test_pseudo_inverse_solves_least_squares():
    a = Dense(normal(7, 4, dtype=F64))
    y = normal(7, key=1, dtype=F64)
    theirs = torch.linalg.lstsq(a.matrix, y[:, None]).solution[:, 0]
    assert torch.allclose(a.svd().pinv(y), theirs, atol=1e-10)


def test_inverse_singular_values_cut_the_null_space():
    base = Dense(torch.diag(torch.tensor([4.0, 1.0, 1e-9, 0.0]))).svd()
    assert base.inverse_s().tolist() == [0.25, 1.0, 0.0, 0.0]


def test_space_counts_real_numbers_and_checks_tensors():
    assert Space((3, 4), C64).size == 24 and Space((3, 4)).size == 12 and Space(()).size == 1
    Space((3, 4)).check(torch.zeros(2, 5, 3, 4), "here")
    for bad in (torch.zeros(3, 5), torch.zeros(4), torch.zeros(3, 4, dtype=C64)):
        with pytest.raises(MismatchError, match="here"):
            Space((3, 4)).check(bad, "here")


def test_inner_is_the_real_part_per_batch_item():
    u, v = normal(2, 3, 4, dtype=C128), normal(2, 3, 4, key=1, dtype=C128)
    assert torch.allclose(inner(u, v, 2), (u.conj() * v).real.sum((1, 2)))
    assert torch.allclose(inner(u.conj(), v, 2), (u * v).real.sum((1, 2)))  # lazily conjugated input
    assert inner(u, v, 3).shape == () and inner(u.real, v.real, 1).shape == (2, 3)
    assert math.isclose(float(inner(u, u, 3)), float(u.abs().square().sum()), rel_tol=1e-12)


def test_to_real_interleaves_parts():
    x = torch.tensor([[1 + 2j, 3 + 4j]])
    assert to_real(x, 1).tolist() == [[1, 2, 3, 4]]
    assert to_real(x.conj(), 2).tolist() == [1, -2, 3, -4]
    assert to_real(torch.zeros(2, 3, 4), 2).shape == (2, 12)


def test_vjp_needs_no_gradient_context_and_leaves_the_input_alone():
    op, x = PhaseRetrieval((3, 4)), normal(3, 4, dtype=C64)
    with torch.no_grad():
        g = op.vjp(x, op(x))
    assert g.shape == x.shape and not g.requires_grad and not x.requires_grad
