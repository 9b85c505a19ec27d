"""The renderer against a plain float64 one, written straight from SPEC section 4, done anew for each yaw."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from deca import renderer as renderer_module
from deca.flame import HeadModel
from deca.head_renderer import HeadRenderer, grid_normals
from deca.rasterizer import rasterize
from deca.renderer import YAWS, SurfaceRenderer, project, yaw_rotations


def ball_head(rows=72, columns=70, uv_holes=True):
    """A FLAME-sized ellipsoid grid in FLAME's format, bumpy so that nothing is symmetric; no skinning."""
    polar = np.linspace(0.05, np.pi - 0.05, rows)[:, None]
    turn = np.linspace(-np.pi, np.pi, columns)[None]
    bump = 1 + 0.05 * np.sin(5 * turn + 3 * polar) + 0.04 * np.cos(7 * polar)
    template = np.stack([0.08 * np.sin(polar) * np.sin(turn) * bump, 0.115 * np.cos(polar) * bump,
                         0.095 * np.sin(polar) * np.cos(turn) * bump], -1)
    template = template.reshape(-1, 3)                                              # (rows*columns, 3)
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    u, v = np.meshgrid(np.linspace(0.03, 0.97, columns), np.linspace(0.97, 0.03, rows))
    y, x = np.mgrid[:256, :256]
    displacement = 0.002 * np.sin(x / 5) * np.cos(y / 7)
    mask = np.clip(2 - np.hypot(x - 128, y - 110) / 50, 0, 1)
    if uv_holes:                                  # a hole in the UV map, inside the mask (as round the eyes)
        inner = (np.abs(polar - 1.2) < 0.12) & (np.abs(turn - 0.4) < 0.25)
        drop = np.isin(faces, corner[inner]).any(1)
        faces = faces[~drop]
    n = rows * columns
    return HeadModel(
        template=template.astype(np.float32), faces=faces.astype(np.int64),
        shape_basis=np.zeros((n, 3, 1), np.float32), expression_basis=np.zeros((n, 3, 1), np.float32),
        pose_basis=np.zeros((36, n * 3), np.float32), joint_regressor=np.zeros((5, n), np.float32),
        skinning=np.eye(1, 5, dtype=np.float32).repeat(n, 0), parents=np.array([-1, 0, 1, 1, 1]),
        landmark_corners=np.zeros((68, 3), np.int64), landmark_bary=np.full((68, 3), 1 / 3, np.float32),
        uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32), uv_faces=faces.astype(np.int64),
        displacement=displacement.astype(np.float32), uv_face_mask=mask.astype(np.float32))


def normalised(vectors, floor=1e-6):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), floor)


def plain_normals(vertices, faces):
    total = np.zeros_like(vertices)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    for k in range(3):
        np.add.at(total, faces[:, k], np.cross(b - a, c - a))
    return normalised(total)


def seen_by(points, faces, size):
    """Faces and float64 barycentric coordinates; the visibility test has its own tests."""
    seen = rasterize(torch.tensor(points, dtype=torch.float32)[None], torch.tensor(faces), size, size)
    return seen.face_index[0].numpy(), seen.bary[0].double().numpy()


def interpolated(values, faces, seen):
    return np.einsum("hwkc,hwk->hwc", values[faces[seen[0]]], seen[1])


def sampled(image, where):
    """`image` (H, W, C) at `where` (..., 2) in [-1, 1], bilinear, 0 outside, align_corners False."""
    height, width, _ = image.shape
    x, y = (where[..., 0] + 1) * width / 2 - 0.5, (where[..., 1] + 1) * height / 2 - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    total = 0.0
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = x0 + dx, y0 + dy
            weight = np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0))
            valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            part = image[row.clip(0, height - 1), column.clip(0, width - 1)]
            total = total + part * (weight * valid)[..., None]
    return total


def plain_detail_normals(head, vertices, displacement):
    uv = np.column_stack([head.uv * 2 - 1, np.ones(len(head.uv))]) * [1, -1, 1]
    raster = seen_by(uv, head.uv_faces, 256)
    mask = head.uv_face_mask.astype(np.float64)[..., None]
    coarse = interpolated(plain_normals(vertices, head.faces), head.faces, raster)
    height = displacement[..., None] * mask + head.displacement.astype(np.float64)[..., None]
    points = interpolated(vertices, head.faces, raster) + height * coarse
    row, column = (part.ravel() for part in np.mgrid[5:250, 2:253])        # rows 5..h-7, columns 2..w-4
    a = row * 256 + column
    cells = np.concatenate([np.stack([a, a + 256, a + 1], 1), np.stack([a + 1, a + 256, a + 257], 1)])
    fine = plain_normals(points.reshape(-1, 3), cells).reshape(256, 256, 3)
    return fine * mask + coarse * (1 - mask)


def plain_render(head, vertices, cam, displacement=None, size=224):
    """Grey (size, size): `shape`, or `shape_detail` when there is a displacement (256, 256); float64."""
    projected = cam[0] * (vertices + np.append(cam[1:], 0)) * [1, -1, -1]
    seen = seen_by(projected, head.faces, size)
    keep = interpolated(plain_normals(projected, head.faces), head.faces, seen)[..., 2] < 0.15
    if displacement is None:
        normals = interpolated(plain_normals(vertices, head.faces), head.faces, seen)
    else:
        uv = np.column_stack([head.uv[:, 0] * 2 - 1, 1 - head.uv[:, 1] * 2])
        normals = sampled(plain_detail_normals(head, vertices, displacement),
                          interpolated(uv, head.uv_faces, seen))
    lights = normalised(np.array([[-1, 1, 1], [1, 1, 1], [-1, -1, 1], [1, -1, 1], [0, 0, 1.0]]))
    shade = (np.clip(normals @ lights.T, 0, 1) * 1.7).mean(-1) * 180 / 255
    return shade * (keep & (seen[0] >= 0))


def agree(ours, plain, share=0.999):
    """Equal to 1e-4, but for the few pixels whose visibility or keep rule is a matter of rounding."""
    return np.mean(np.abs(ours - plain) < 1e-4) >= share


@pytest.fixture(scope="module")
def head():
    return ball_head()


@pytest.fixture(scope="module")
def renderer(head):
    return HeadRenderer(head)


@pytest.fixture(scope="module")
def displacement():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 1, 24, 24, generator=generator) * 0.01 - 0.005
    return torch.nn.functional.interpolate(coarse, size=256, mode="bicubic")


def meshes(head, count=1):
    rng = np.random.default_rng(5)
    return torch.tensor(head.template * rng.uniform(0.9, 1.1, (count, 1, 3)), dtype=torch.float32)


def test_shape_and_detail_equal_the_plain_renderer(head, renderer, displacement):
    vertices, cam = meshes(head), torch.tensor([[7.5, 0.01, -0.02]])
    plain = plain_render(head, vertices[0].double().numpy(), cam[0].double().numpy())
    shape = renderer.render(vertices, cam, "shape")
    assert shape.shape == (1, 3, 224, 224) and agree(shape[0, 1].numpy(), plain)
    assert plain.max() > 0.6 and (plain > 0).mean() > 0.3
    detail = displacement[0, 0].double().numpy()
    plain = plain_render(head, vertices[0].double().numpy(), cam[0].double().numpy(), detail)
    ours = renderer.render(vertices, cam, "shape_detail", displacement=displacement)
    assert agree(ours[0, 0].numpy(), plain)
    assert np.abs(plain - shape[0, 0].numpy()).max() > 0.1        # detail is not nothing
    flat = renderer.render(vertices, cam, "shape_detail")
    plain = plain_render(head, vertices[0].double().numpy(), cam[0].double().numpy(), 0 * detail)
    assert agree(flat[0, 0].numpy(), plain)


def test_views_equal_turning_the_mesh_and_computing_everything_anew(head, renderer, displacement):
    vertices, root = meshes(head), torch.tensor([[0.002, -0.11, -0.03]])
    before = vertices.clone(), root.clone(), displacement.clone()
    views = renderer.views(vertices, root, detail=(displacement,))
    assert views.shape == (1, 13, 224, 224)
    for yaw in (-30, 0, 25):
        angle = np.deg2rad(yaw)
        matrix = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        turned = (vertices[0].double().numpy() - root[0].numpy()) @ matrix.T + root[0].numpy()
        plain = plain_render(head, turned, np.array([8.0, 0, 0]), displacement[0, 0].double().numpy())
        assert agree(views[0, YAWS.index(yaw)].numpy(), plain)
    assert all(torch.equal(*pair) for pair in zip(before, (vertices, root, displacement), strict=True))


def test_views_equal_render_of_turned_meshes_to_the_last_digits(head, renderer, displacement):
    vertices, root = meshes(head, 2), torch.tensor([[0.0, -0.1, -0.04], [0.01, 0, 0.02]])
    detail = torch.cat([displacement, -displacement])
    turned = torch.einsum("yij,bvj->ybvi", yaw_rotations(YAWS), vertices - root[:, None]) + root[:, None]
    views = renderer.views(vertices, root, detail=(detail,))
    for index in (0, 6, 12):
        cam = torch.tensor([[8.0, 0, 0]]).repeat(2, 1)
        one = renderer.render(turned[index], cam, "shape_detail", displacement=detail)[:, 0]
        different = ((views[:, index] - one).abs() > 2e-5).float().mean()
        assert different < 1e-4


def test_the_hole_in_the_uv_map_is_where_the_map_alone_does_not_turn(head, renderer, displacement):
    assert len(renderer.border) > 50                 # the case is there
    whole = HeadRenderer(ball_head(uv_holes=False))
    assert len(whole.border) == 0
    root, rotations = torch.tensor([[0.0, -0.1, -0.05]]), yaw_rotations([0, 30])
    normals = renderer.vertex_normals(meshes(head))
    still, turned = renderer._turned_maps(meshes(head), normals, displacement, root, rotations)[0]
    changed = (still - turned).abs().amax(0).flatten() > 1e-3
    assert changed.any() and not changed[~torch.isin(torch.arange(256 * 256), renderer.border)].any()


def test_texture_takes_the_colours_from_the_image(head, renderer):
    y, x = torch.meshgrid(torch.linspace(0, 1, 224), torch.linspace(0, 1, 224), indexing="ij")
    image = torch.stack([x, y, 0.5 + 0 * x])[None]                     # colour = place
    cam = torch.tensor([[8.0, 0, 0]])
    shown = renderer.render(meshes(head), cam, "texture", images=image)[0]
    grey = renderer.render(meshes(head), cam, "shape")[0, 0]
    middle = torch.zeros(224, 224, dtype=torch.bool)
    middle[70:150, 90:140] = True                                      # away from seams and the outline
    middle &= grey > 0
    assert middle.float().mean() > 0.03
    assert ((shown - image[0]).abs().amax(0)[middle] < 0.02).float().mean() > 0.98
    uv = np.column_stack([head.uv * 2 - 1, np.ones(len(head.uv))]) * [1, -1, 1]
    projected = meshes(head)[0].double().numpy() * [8, -8, -8]
    where = interpolated(projected, head.faces, seen_by(uv, head.uv_faces, 256))[..., :2]
    colours = sampled(image[0].permute(1, 2, 0).double().numpy(), where)
    seen = seen_by(projected, head.faces, 224)
    plain = sampled(colours, interpolated(uv[:, :2], head.uv_faces, seen)) * (seen[0] >= 0)[..., None]
    assert agree(shown.permute(1, 2, 0).numpy(), plain)


def test_projection_and_rotation_by_hand():
    point = torch.tensor([[[0.1, 0.2, 0.3]]])
    found = project(point, torch.tensor([[8.0, 0.05, -0.1]]))
    np.testing.assert_allclose(found[0, 0].numpy(), [1.2, -0.8, -2.4], atol=1e-6)
    turned = yaw_rotations([90]) @ torch.tensor([0.0, 0, 1])           # +90 degrees: z goes to x
    np.testing.assert_allclose(turned[0].numpy(), [1, 0, 0], atol=1e-6)


SQUARE = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])      # z forward: counterclockwise
SQUARE_FACES = [[0, 1, 2], [0, 2, 3]]


def test_of_two_squares_the_front_one_hides_the_other():
    flip = torch.tensor([1.0, -1, -1])                       # into image space: smaller z is nearer
    front, near, behind = (side * SQUARE * flip + torch.tensor([0, 0, z])
                           for side, z in ((0.6, 0), (0.4, 0.1), (0.4, 0.5)))
    two = SurfaceRenderer([*SQUARE_FACES, [4, 5, 6], [4, 6, 7]], 8, image_size=32)
    found = two.visibility(torch.stack([torch.cat([front, behind]), torch.cat([front, near])]))
    assert found.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]         # .1 behind is no other surface
    assert two.visibility((torch.cat([front, behind]) * flip)[None]).tolist() == [[0] * 8]     # from the back


def test_what_lies_outside_the_picture_has_no_share_of_it():
    square = SurfaceRenderer(SQUARE_FACES, 4, image_size=32)
    vertices, root = 0.1 * SQUARE[None], torch.zeros(1, 3)
    posed = square.project_views(vertices) + torch.tensor([1.0, 0, 0])   # x from .2 to 1.8: half is outside
    image = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    seen = square.frontal(vertices, root)
    drawn, share = square.sampled(seen, image, posed, torch.ones(1, 4))
    assert seen.hit[0, 16, 3:29].all() and drawn.shape == (1, 1, 32, 32)
    np.testing.assert_allclose(share[0, 16], [0] * 3 + [1] * 13 + [0] * 16, atol=1e-5)


@pytest.mark.parametrize(("away", "kept"), [(0.145, True), (0.155, False)])
def test_a_surface_is_drawn_until_its_normal_looks_away_by_fifteen_hundredths(away, kept):
    square, towards = SurfaceRenderer(SQUARE_FACES, 4, image_size=32), (1 - away**2) ** 0.5
    axes = torch.tensor([[-away / 2, 0, towards / 2], [0, 0.1, 0], [0, 0, 0]])
    vertices = (SQUARE @ axes)[None]
    np.testing.assert_allclose(square.vertex_normals(vertices)[0], [[-towards, 0, -away]] * 4, atol=1e-5)
    assert square.views(vertices, torch.zeros(1, 3), (0,)).any().item() is kept


def test_normals_point_out_of_the_head(head, renderer):
    vertices = meshes(head)
    normals = renderer.vertex_normals(vertices)
    inner = torch.tensor(np.isin(np.arange(len(head.template)), head.faces))
    assert ((normals * vertices).sum(-1)[:, inner] > 0).all()
    np.testing.assert_allclose(normals[0].numpy(), plain_normals(vertices[0].double().numpy(), head.faces),
                               atol=1e-4)


def test_grid_normals_of_a_tilted_plane_by_hand():
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    points = torch.stack([x, -y, 2 * x])[None]                          # rows go down: up is +z
    cells = torch.ones(1, 1, 3, 4)
    cells[..., 0] = 0
    found = grid_normals(points, cells)
    expected = torch.tensor([-2.0, 0, 1]) / 5**0.5
    assert torch.allclose(found[0, :, :, 1:], expected[:, None, None].expand(3, 4, 4), atol=1e-6)
    assert (found[..., 0] == 0).all()


def test_batches_and_chunks_give_the_same_bits(head, renderer, displacement, monkeypatch):
    vertices, root = meshes(head, 3), torch.zeros(3, 3)
    detail = torch.cat([displacement, 2 * displacement, -displacement])
    whole = renderer.views(vertices, root, yaws_degrees=(-20, 15), detail=(detail,))
    shapes = renderer.render(vertices, torch.tensor([[8.0, 0, 0]] * 3))
    monkeypatch.setitem(renderer_module.AT_ONCE, "cpu", 1)
    for k in range(3):
        one = renderer.views(vertices[k:k + 1], root[:1], (-20, 15), detail=(detail[k:k + 1],))
        assert torch.equal(one, whole[k:k + 1])
    assert torch.equal(renderer.render(vertices, torch.tensor([[8.0, 0, 0]] * 3)), shapes)
    assert whole.min() >= 0 and whole.max() <= 1


def test_other_sizes(head):
    flat = replace(head, displacement=0 * head.displacement)
    small = HeadRenderer(replace(flat, displacement=flat.displacement[::2, ::2],
                                 uv_face_mask=flat.uv_face_mask[::2, ::2]), image_size=64)
    large = HeadRenderer(flat)
    vertices, root = meshes(head), torch.zeros(1, 3)
    shown = small.views(vertices, root, (0,))
    assert shown.shape == (1, 1, 64, 64)
    reduced = torch.nn.functional.interpolate(large.views(vertices, root, (0,)), size=64, mode="area")
    assert (shown - reduced).abs().mean() < 0.02


def test_wrong_calls_are_refused(head, renderer):
    vertices, cam = meshes(head), torch.tensor([[8.0, 0, 0]])
    with pytest.raises(ValueError, match="mode"):
        renderer.render(vertices, cam, "wireframe")
    with pytest.raises(ValueError, match="images"):
        renderer.render(vertices, cam, "texture")


@pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="pytorch3d is not installed")
def test_pytorch3d_draws_the_same_picture(displacement):
    small = ball_head(rows=24, columns=30)             # pytorch3d takes seconds a view with more triangles
    ours, theirs = (
        HeadRenderer(small, image_size=112, rasterizer=name).views(
            meshes(small), torch.zeros(1, 3), (-30, 10), detail=(displacement,))
        for name in ("torch", "pytorch3d"))
    assert ((ours - theirs).abs() < 1e-3).float().mean() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_draws_the_same_picture(head, renderer, displacement):
    theirs = HeadRenderer(head, device="cuda").views(
        meshes(head).cuda(), torch.zeros(1, 3, device="cuda"), detail=(displacement.cuda(),))
    ours = renderer.views(meshes(head), torch.zeros(1, 3), detail=(displacement,))
    assert ((ours - theirs.cpu()).abs() < 1e-4).float().mean() > 0.999
