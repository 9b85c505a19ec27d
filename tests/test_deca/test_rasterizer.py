"""The rasteriser against a brute-force float64 one, by hand, and against pytorch3d where it is installed."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from deca import rasterizer
from deca.rasterizer import choose_rasterizer, rasterize, rasterize_turned

HAS_PYTORCH3D = importlib.util.find_spec("pytorch3d") is not None


def brute_force(vertices, faces, height, width):
    """One mesh, float64, every pixel against every triangle → face (H, W), bary (H, W, 3), margin (H, W).

    The margin says how clear the decision was: the least distance to an edge, and the least gap in depth.
    """
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height) + 1) / height - 1
    grid = np.stack(np.meshgrid(x, y), -1)
    best = np.full((height, width), -1)
    depth, second = np.full((height, width), np.inf), np.full((height, width), np.inf)
    bary, margin = np.zeros((height, width, 3)), np.full((height, width), np.inf)
    for index, face in enumerate(faces):
        a, b, c = vertices[face].astype(np.float64)
        system = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        if not np.isfinite(system).all() or abs(np.linalg.det(system)) < 1e-15:
            continue
        weight = np.einsum("ij,hwj->hwi", np.linalg.inv(system), np.dstack([grid, np.ones(grid.shape[:2])]))
        inside = weight.min(-1) >= 0
        z = weight @ np.array([a[2], b[2], c[2]])
        margin = np.minimum(margin, np.abs(weight.min(-1)))
        nearer = inside & (z < depth)
        second = np.where(nearer, depth, np.where(inside, np.minimum(second, z), second))
        depth, best = np.where(nearer, z, depth), np.where(nearer, index, best)
        bary = np.where(nearer[..., None], weight, bary)
    gap = np.where(np.isfinite(second), second - np.where(np.isfinite(depth), depth, 0), np.inf)
    return best, bary, np.minimum(margin, gap)


def random_mesh(seed, n_vertices=30, n_faces=40, spread=1.2):
    rng = np.random.default_rng(seed)
    faces = np.stack([rng.choice(n_vertices, 3, replace=False) for _ in range(n_faces)])
    return rng.uniform(-spread, spread, (n_vertices, 3)).astype(np.float32), faces


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 6))
@settings(max_examples=40)
def test_equals_brute_force_wherever_the_answer_is_clear(seed, height, width, spread):
    vertices, faces = random_mesh(seed, spread=spread)
    found = rasterize(torch.tensor(vertices)[None], torch.tensor(faces), height, width)
    best, bary, margin = brute_force(vertices, faces, height, width)
    clear = margin > 1e-4
    np.testing.assert_array_equal(found.face_index[0].numpy()[clear], best[clear])
    np.testing.assert_allclose(found.bary[0].numpy()[clear], bary[clear], atol=2e-4)
    z = np.where(best >= 0, (bary * vertices[faces[best], 2]).sum(-1), np.inf)
    np.testing.assert_allclose(found.depth[0].numpy()[clear], z[clear], atol=1e-3)


def test_small_triangles_equal_brute_force():
    rng = np.random.default_rng(1)
    centre = rng.uniform(-1, 1, (400, 1, 3))
    vertices = (centre + rng.normal(0, 0.06, (400, 3, 3))).reshape(-1, 3).astype(np.float32)    # (400*3, 3)
    faces = np.arange(1200).reshape(400, 3)
    found = rasterize(torch.tensor(vertices)[None], torch.tensor(faces), 64, 48)
    best, bary, margin = brute_force(vertices, faces, 64, 48)
    clear = margin > 1e-5
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(found.face_index[0].numpy()[clear], best[clear])
    np.testing.assert_allclose(found.bary[0].numpy()[clear], bary[clear], atol=1e-4)


def test_pixel_centres_and_axes_by_hand():
    # One triangle round the centre of the top right pixel only: x right, y down.
    corners = torch.tensor([[[0.6, -0.9, 0.0], [0.9, -0.9, 0.0], [0.75, -0.6, 3.0]]])
    found = rasterize(corners, torch.tensor([[0, 1, 2]]), 4, 4)
    expected = torch.full((4, 4), -1)
    expected[0, 3] = 0
    assert torch.equal(found.face_index[0], expected)
    np.testing.assert_allclose(found.bary[0, 0, 3].numpy(), [0.25, 0.25, 0.5], atol=1e-6)
    assert found.depth[0, 0, 3] == pytest.approx(1.5)
    assert found.depth[0, 1, 1] == torch.inf and not found.bary[0, 1, 1].any()


def test_nearest_wins_both_sides_are_seen_and_ties_go_to_the_lowest_index():
    square = torch.tensor([[-2.0, -2, 0], [2, -2, 0], [0, 4, 0]])
    layers = torch.cat([square + torch.tensor([0, 0, z]) for z in (1.0, -1.0, -1.0, 0.0)])[None]
    faces = torch.tensor([[0, 1, 2], [5, 4, 3], [6, 7, 8], [9, 10, 11]])
    found = rasterize(layers, faces, 8, 8)
    assert (found.face_index == 1).all()
    assert (rasterize(layers, faces[[0, 2, 1, 3]], 8, 8).face_index == 1).all()
    assert (rasterize(layers, faces[[3, 0]], 8, 8).face_index == 0).all()


def test_a_closed_surface_has_no_gaps_even_where_edges_cross_pixel_centres():
    side = 9                                    # vertices on the very pixel centres of a 16 x 16 image
    line = [*((torch.arange(0, 16, 2) * 2 + 1) / 16 - 1).tolist(), 1.0]
    grid = torch.tensor([[x, y, 0.0] for y in line for x in line])[None]
    corner = torch.arange(side * side).reshape(side, side)
    a, b = corner[:-1, :-1].flatten(), corner[:-1, 1:].flatten()
    c, d = corner[1:, :-1].flatten(), corner[1:, 1:].flatten()
    faces = torch.cat([torch.stack([a, c, b], 1), torch.stack([b, c, d], 1)])
    assert (rasterize(grid, faces, 16, 16).face_index >= 0).all()
    turned = grid @ torch.linalg.matrix_exp(torch.tensor([[0, 0.3, 0], [-0.3, 0, 0], [0, 0, 0]])) * 2
    assert (rasterize(turned, faces, 200, 200).face_index >= 0).all()


def test_degenerate_and_unusable_triangles_draw_nothing():
    good = [[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]]
    bad = [[[0.0, 0, 0]] * 3, [[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]], [[float("nan"), 0, 0], *good[1:]],
           [[-1, -1, float("nan")], *good[1:]], [[float("inf"), 0, 0], *good[1:]],
           [[9.0, 9, 0], [8, 9, 0], [9, 8, 0]]]
    corners = torch.tensor([point for triangle in bad for point in triangle])[None]
    faces = torch.arange(len(bad) * 3).reshape(-1, 3)
    assert (rasterize(corners, faces, 32, 32).face_index == -1).all()
    both = torch.cat([corners, torch.tensor(good)[None]], 1)
    found = rasterize(both, torch.arange(len(bad) * 3 + 3).reshape(-1, 3), 32, 32)
    assert set(found.face_index.unique().tolist()) == {-1, len(bad)}
    assert torch.isfinite(found.bary).all()
    assert (rasterize(corners, torch.zeros(0, 3, dtype=torch.int64), 32, 32).face_index == -1).all()
    assert rasterize(corners[:0], faces, 5, 7).face_index.shape == (0, 5, 7)


def test_batches_and_repeats_give_the_same_bits():
    meshes = [random_mesh(seed) for seed in range(5)]
    faces = torch.tensor(meshes[0][1])
    vertices = torch.tensor(np.stack([vertices for vertices, _ in meshes]))
    before = vertices.clone()
    whole = rasterize(vertices, faces, 40, 56)
    again = rasterize(vertices, faces, 40, 56)
    one_by_one = [rasterize(mesh[None], faces, 40, 56) for mesh in vertices]
    for k in range(3):
        assert torch.equal(whole[k], again[k])
        assert torch.equal(whole[k], torch.cat([single[k] for single in one_by_one]))
    assert torch.equal(vertices, before)


def test_turned_meshes_are_seen_as_if_each_were_drawn_alone():
    meshes = [random_mesh(seed, spread=0.9) for seed in range(3)]
    faces, vertices = torch.tensor(meshes[0][1]), torch.tensor(np.stack([vertices for vertices, _ in meshes]))
    angle, axis = torch.tensor([-0.5, 0.0, 0.3]), torch.tensor([[0.1, -0.2], [0, 0], [0, 0.4]])
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(3, 2, 2)
    found = rasterize_turned(vertices, faces, turns, axis, 90, 120)
    plane = (vertices[:, None, :, [0, 2]] - axis[:, None, None]) @ turns.transpose(1, 2) + axis[:, None, None]
    turned = torch.stack([plane[..., 0], vertices[:, None, :, 1].expand(-1, 3, -1), plane[..., 1]], 3)
    alone = rasterize(turned.flatten(0, 1), faces, 90, 120)
    corners = torch.arange(faces.numel()).reshape(-1, 3)               # each corner has a row of its own
    number = torch.arange(len(faces)).repeat_interleave(3)[:, None]
    names = torch.cat([torch.eye(3).repeat(len(faces), 1), number], 1)
    bary, face = found.at_pixels(corners, names[None]).split([3, 1], 1)
    assert torch.equal(found.hit, bary.any(1)) and (found.hit == alone.hit).float().mean() > 0.9995
    same = found.hit & (face[:, 0].round() == alone.face_index)
    assert same.sum() / alone.hit.sum() > 0.999 and alone.hit.float().mean() > 0.3
    assert (bary.permute(0, 2, 3, 1) - alone.bary)[same].abs().max() < 2e-3
    for values in (vertices, turned.flatten(0, 1)):                     # of each mesh, of each view
        error = found.at_pixels(faces, values) - alone.at_pixels(faces, values)
        assert error.abs().amax(1)[same].max() < 2e-3
    assert not found.at_pixels(faces, vertices + 9).amax(1)[~found.hit].any()
    bad = torch.full((1, 3, 3), float("nan"))
    nothing = rasterize_turned(bad, torch.tensor([[0, 1, 2]]), turns, axis[:1], 8, 8)
    assert not nothing.hit.any() and not nothing.at_pixels(torch.tensor([[0, 1, 2]]), bad).any()


def test_which_rasterizer(monkeypatch):
    assert choose_rasterizer("auto") == choose_rasterizer("torch") == "torch"
    if HAS_PYTORCH3D:
        assert choose_rasterizer("pytorch3d") == "pytorch3d"
    monkeypatch.setitem(__import__("sys").modules, "pytorch3d", None)
    monkeypatch.setitem(__import__("sys").modules, "pytorch3d.structures", None)
    assert choose_rasterizer("auto") == "torch"
    with pytest.raises(InputError, match=r"pip install easypytorch3d==0\.7\.9\.post1 iopath"):
        choose_rasterizer("pytorch3d")


def test_order_of_the_keys_is_the_order_of_depth_then_face():
    depth = torch.tensor([-torch.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3e8, torch.inf])
    key = rasterizer._key(depth, torch.arange(9))
    assert torch.equal(key, key.sort()[0])
    assert torch.equal(key & 0xFFFFFFFF, torch.arange(9))


def test_wrong_calls_are_refused(monkeypatch):
    vertices, faces = torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match="vertices"):
        rasterize(vertices[0], faces, 4, 4)
    with pytest.raises(ValueError, match="backend"):
        rasterize(vertices, faces, 4, 4, backend="opengl")
    monkeypatch.setitem(__import__("sys").modules, "pytorch3d.structures", None)
    monkeypatch.setitem(__import__("sys").modules, "pytorch3d", None)
    with pytest.raises(InputError, match="pip install"):
        rasterize(vertices, faces, 4, 4, backend="pytorch3d")


@pytest.mark.skipif(not HAS_PYTORCH3D, reason="pytorch3d is not installed")
@pytest.mark.parametrize("size", [(96, 96), (60, 100), (100, 60)])
def test_pytorch3d_sees_the_same(size):
    rng = np.random.default_rng(0)
    centre = rng.uniform(-1, 1, (2, 300, 1, 3))
    vertices = torch.tensor((centre + rng.normal(0, 0.1, (2, 300, 3, 3))).reshape(2, 900, 3)).float()
    faces = torch.arange(900).reshape(300, 3)
    ours, theirs = (rasterize(vertices, faces, *size, backend=name) for name in ("torch", "pytorch3d"))
    same = ours.face_index == theirs.face_index
    assert same.float().mean() >= 0.999
    hit = same & (ours.face_index >= 0)
    assert hit.float().mean() > 0.3
    assert (ours.bary - theirs.bary).abs()[hit].max() < 1e-4
    assert (ours.depth - theirs.depth).abs()[hit].max() < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_sees_the_same():
    meshes = [random_mesh(seed, spread=0.9) for seed in range(3)]
    vertices, faces = torch.tensor(np.stack([mesh[0] for mesh in meshes])), torch.tensor(meshes[0][1])
    ours, theirs = rasterize(vertices, faces, 90, 120), rasterize(vertices.cuda(), faces.cuda(), 90, 120)
    same = ours.face_index == theirs.face_index.cpu()
    assert same.float().mean() >= 0.999
    assert (ours.bary - theirs.bary.cpu()).abs()[same].max() < 1e-4
    assert torch.equal(theirs.face_index, rasterize(vertices.cuda(), faces.cuda(), 90, 120).face_index)
