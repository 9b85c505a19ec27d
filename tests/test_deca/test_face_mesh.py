"""The reconstructor `mesh`: topology, poses, views and motion, on a photograph that scikit-image brings."""

import importlib.util
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from skimage import data

import deca
from common.errors import InputError
from deca import face_mesh
from deca.face_mesh import TOPOLOGY, FaceMesh, similarity
from deca.landmarks import LandmarkDetector, crop_square, warp_square
from deca.motion import flow, rigid_part, strain
from deca.reconstructor import Surfaces, levels
from deca.renderer import YAWS


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh("cpu")


@pytest.fixture(scope="module")
def crop():
    """The face of the astronaut, uint8 (1, 3, 224, 224)."""
    photo = data.astronaut()
    picture = warp_square(photo, *crop_square(LandmarkDetector().detect(photo).points))
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def warped(picture, moved):
    """uint8 (3, 224, 224) whose pixel p shows what `picture` has at `moved`(x, y)[p]."""
    y, x = np.mgrid[:224, :224].astype(np.float32)
    found = cv2.remap(picture.permute(1, 2, 0).numpy(), *(part.astype(np.float32) for part in moved(x, y)),
                      cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(found).permute(2, 0, 1)


def test_the_topology_is_an_oriented_disk_over_all_points(mesh, crop):
    with np.load(TOPOLOGY) as topology:
        triangles, mirror = topology["triangles"].astype(int), topology["mirror"].astype(int)
        mean = topology["mean"]
    assert np.array_equal(np.unique(triangles), np.arange(468))
    assert np.array_equal(mirror[mirror], np.arange(468))
    for faces, points in ((triangles, mean), (mesh.faces, mesh.fine @ mean)):
        solid = trimesh.Trimesh(points, faces, process=False)
        assert solid.euler_number == 1 and solid.is_winding_consistent and solid.body_count == 1  # a disk
        sides, count = np.unique(np.sort(solid.edges, axis=1), axis=0, return_counts=True)
        assert count.max() == 2                                     # no edge has three triangles
        rim = sides[count == 1]
        assert np.array_equal(np.unique(rim, return_counts=True)[1], np.full(len(rim), 2))     # closed
    turned = {frozenset(mirror[triangle]) for triangle in triangles}
    assert turned == {frozenset(triangle) for triangle in triangles}         # symmetric
    real = mesh.reconstruct(crop).vertices[0].numpy()
    normals = trimesh.Trimesh(real, mesh.faces, process=False).face_normals
    assert np.mean(normals[:, 2] > 0) > 0.95                        # outside is towards the viewer, no folds
    rows = np.asarray(mesh.fine.sum(1)).ravel()
    np.testing.assert_allclose(rows, 1, atol=1e-5)


def test_points_of_a_known_picture(mesh, crop):
    points, presence = mesh.network(crop.permute(0, 2, 3, 1).numpy())
    expected = {     # x, y, z in pixels of the crop
        1: (106.66, 108.78, -46.88), 10: (112.53, 0.11, -21.48), 33: (55.46, 55.04, 10.14),
        61: (67.28, 122.81, 15.05), 152: (104.58, 190.26, 15.53), 263: (165.95, 60.57, 7.97),
        291: (147.76, 126.75, 13.59)}
    for index, place in expected.items():
        np.testing.assert_allclose(points[0, index], place, atol=0.05)
    assert presence[0] > 10


def yaw_of(pose):
    turn = pose[0, :, :3].double().numpy() * np.array([[1], [-1], [-1]])
    return Rotation.from_matrix(turn / np.cbrt(np.linalg.det(turn))).as_euler("YXZ", degrees=True)[0]


def test_heads_of_known_yaw_have_it(mesh, crop):
    surface, errors = mesh.reconstruct(crop), []
    drawn, _ = mesh.renderer.carry(crop.float() / 255, surface.posed(), surface.vertices, surface.root, YAWS)
    for yaw, picture in zip(YAWS, drawn[0], strict=True):
        found = mesh.reconstruct((picture * 255).round().to(torch.uint8)[None])
        assert found.found.all()
        errors.append(abs(yaw_of(found.pose) - yaw))
    assert np.median(errors) < 2 and np.percentile(errors, 95) < 5


def test_a_mirrored_picture_has_mirrored_views(mesh, crop):
    for paint in ("shape_detail", "texture"):
        views, found = mesh.views(crop, paint)
        mirrored, _ = mesh.views(crop.flip(3), paint)
        assert found.all() and views.dtype == torch.uint8
        assert views.shape == ((1, 13, 224, 224) if paint == "shape_detail" else (1, 13, 3, 224, 224))
        difference = (views.flip(1).flip(-1).float() - mirrored.float()).abs()
        assert difference.mean() < 0.1 and (views.float() - mirrored.float()).abs().mean() > 1


def test_views_forget_where_the_face_is(mesh, crop):
    moved = warped(crop[0], lambda x, y: (x * 0.98 + y * 0.05 - 4, y * 0.98 - x * 0.05 + 6))[None]
    views, _ = mesh.views(torch.cat([crop, moved]))
    assert (views[0].float() - views[1].float()).abs().mean() < 4
    assert (crop.float() - moved.float()).abs().mean() > 10


def test_the_face_fills_the_view_as_the_crop_rule_says(mesh, crop):
    seen = mesh.views(crop)[0][0, 6] > 0
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    assert 0.7 < len(rows) / 224 < 0.95 and 0.6 < len(columns) / 224 < 0.9
    assert abs(columns.float().mean() - 111.5) < 6
    for view in mesh.views(crop)[0][0]:
        assert not view[:, 0].any() and not view[:, -1].any() and not view[-1].any()     # nothing is cut off


def test_texture_is_the_pictures_own_colours(mesh, crop):
    surface = mesh.reconstruct(crop)
    shape, carry = (surface.vertices, surface.root, (0,)), mesh.renderer.carry
    drawn, light = carry(crop.float() / 255, surface.posed(), *shape)
    again, _ = carry(drawn[:, 0], mesh.renderer.project_views(surface.vertices), *shape)
    seen = light[0, 0] > 0.9
    assert seen.float().mean() > 0.2
    assert (again - drawn)[0, 0].abs().mean(0)[seen].mean() < 0.01
    tip = mesh.fine[:, 1].argmax()                                           # of the nose
    sample = torch.nn.functional.grid_sample
    colour = sample(crop.float() / 255, surface.posed()[:, None, [tip], :2], align_corners=False)
    place = mesh.renderer.project_views(surface.vertices)[:, None, [tip], :2]
    torch.testing.assert_close(sample(drawn[:, 0], place, align_corners=False), colour, rtol=0, atol=0.03)


def test_no_black_rim_runs_round_the_nose(mesh, crop):
    """Well inside the face every view has the picture's colours, also where the picture sees skin grazing."""
    surface = mesh.reconstruct(crop)
    drawn, _ = mesh.renderer.carry(crop.float() / 255, surface.posed(), surface.vertices, surface.root, YAWS)
    shown = mesh.views(crop, "texture")[0][0].int()
    off = (shown - levels(drawn)[0].int()).abs().amax(1).numpy()                     # (13, 224, 224)
    for face, difference in zip((mesh.views(crop)[0][0] > 0).numpy(), off, strict=True):
        inside = cv2.erode(face.astype(np.uint8), np.ones((61, 61), np.uint8), borderValue=0) > 0
        assert inside.sum() > 5000 and difference[inside].max() < 10


def test_a_picture_s_detail_is_on_the_views_but_round_the_eyes(mesh, crop):
    """Marks on the picture alone show on cheek and chin, not on lids, nose bridge and temples."""
    surfaces = mesh.reconstruct(crop)
    points = mesh.mesh(surfaces, "coarse")[0].posed()[0, :, :2]
    plain = mesh.painted(surfaces, crop)[0, 6].int()
    for point, shows in {205: True, 199: True, 159: False, 145: False, 168: False, 127: False}.items():
        x, y = (((points[point] + 1) * 224 - 1) / 2).round().int().tolist()
        marked = crop.clone()
        marked[..., y - 2:y + 3, max(0, x - 2):x + 3] = 0
        change = (mesh.painted(surfaces, marked)[0, 6].int() - plain).abs().max()
        assert (change > 25) if shows else (change <= 2), point


def test_the_end_of_the_photograph_is_no_detail_of_the_face(mesh, crop):
    surfaces, cut = mesh.reconstruct(crop), crop.clone()
    cut[..., 150:] = 0                          # where it ends within the cheek
    plain, whole, drawn = (mesh.painted(surfaces, picture)[0].int()
                           for picture in (torch.full_like(crop, 128), crop, cut))
    assert (drawn - plain).abs().max() <= (whole - plain).abs().max()
    assert ((drawn - plain).abs() > 40).sum() <= ((whole - plain).abs() > 40).sum()
    margin = np.pad(np.full((40, 40), 0.5, np.float32), 20)
    assert np.abs(face_mesh.fine_detail(margin)).max() < 1e-6
    assert not face_mesh.fine_detail(np.zeros((9, 9), np.float32)).any()


def test_what_shows_no_face_is_said_and_gets_the_mean_face(mesh, crop):
    wall = torch.full((1, 3, 224, 224), 90, dtype=torch.uint8)
    views, found = mesh.views(torch.cat([wall, crop]))
    assert found.tolist() == [False, True]
    assert (views[0].float() - views[0].flip(0).flip(-1).float()).abs().mean() < 1       # symmetric
    noise = torch.randint(256, wall.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, found = mesh.views(noise)
    assert not found.any() and torch.equal(mean[0], views[0])       # nothing of what is no face is on it
    moved, found = mesh.motion(wall[0], crop)
    assert found.tolist() == [False] and torch.isfinite(moved).all()


def test_what_the_network_doubts_is_no_face(mesh, crop, monkeypatch):
    sure = mesh.network(crop.permute(0, 2, 3, 1).numpy())[0]
    monkeypatch.setattr(mesh, "network", lambda pictures: (np.repeat(sure, 2, 0), np.array([4.9, 5.1])))
    assert mesh.reconstruct(crop.repeat(2, 1, 1, 1)).found.tolist() == [False, True]


def test_head_motion_is_no_motion(mesh, crop):
    shaken = warped(crop[0], lambda x, y: (x * 0.99 + y * 0.04 - 6, y * 0.99 - x * 0.04 + 4))
    moved, found = mesh.motion(crop[0], torch.stack([crop[0], shaken]))
    assert moved.shape == (2, 1, 3, 224, 224) and moved.dtype == torch.float32 and found.all()
    assert moved[0].abs().max() < 0.05
    size = moved[1, 0, :2].norm(dim=0)
    assert (size > 0).float().mean() > 0.3 and size[size > 0].median() < 0.06


def test_a_brow_that_rises_moves_there_alone(mesh, crop):
    surface = mesh.reconstruct(crop)
    brow = mesh.fine[:, 105].argmax()
    x0, y0 = ((surface.posed()[0, brow, :2] + 1) * 112 - 0.5).tolist()

    def raised(x, y):
        return x, y + 2.0 * np.exp(-((x - x0)**2 + (y - y0)**2) / (2 * 15**2))

    picture = warped(crop[0], raised)
    moved, _ = mesh.motion(crop[0], picture[None], (-20, 0, 20))
    for view, yaw in zip(moved[0], (-20, 0, 20), strict=True):
        turned = Rotation.from_euler("y", yaw, degrees=True).apply(
            (surface.vertices[0, brow] - surface.root[0]).numpy())[:2] + surface.root[0, :2].numpy()
        column, row = ((turned * [8, -8] + 1) * 112 - 0.5).round().astype(int)
        patch = view[:, row - 3:row + 4, column - 3:column + 4].mean((1, 2))
        assert -2.6 < patch[1] < -1.6 and abs(patch[0]) < 0.3                # up by about two pixels
        lower = view[1, 140:]
        assert lower[lower != 0].abs().median() < 0.05
    strained = moved[0, 1, 2]
    assert strained.max() > 0.03 and (strained >= 0).all()


def test_a_mirrored_pair_has_u_negated(mesh, crop):
    picture = warped(crop[0], lambda x, y: (x + 1.5 * np.exp(-((x - 80)**2 + (y - 150)**2) / 400), y))
    moved, _ = mesh.motion(crop[0], picture[None])
    mirrored, _ = mesh.motion(crop[0].flip(2), picture[None].flip(3))
    back = mirrored[0, 0].flip(2) * torch.tensor([-1.0, 1, 1])[:, None, None]
    inner = (moved[0, 0, 0] != 0) & (back[0] != 0)
    assert moved[0, 0, 0].abs().max() > 0.7
    assert (moved[0, 0] - back)[:, inner].abs().mean() < 0.1


def test_strain_by_hand():
    y, x = np.mgrid[:5, :6].astype(float)
    found = strain(0.3 * x + 0.1 * y, 0.4 * y - 0.5 * x)       # u_x .3, u_y .1, v_x -.5, v_y .4
    np.testing.assert_allclose(found, np.full((5, 6), (0.09 + 0.16 + 0.08) ** 0.5))


def test_glare_that_wanders_moves_nothing(crop):
    skin = crop[0].float().mean(0).numpy()[120:184, 60:124] * 0.7
    lamps = [skin.copy(), skin.copy()]
    for picture, left in zip(lamps, (20, 26), strict=True):
        picture[20:32, left:left + 14] = 255
    assert np.abs(flow(*lamps)).max() < 0.1
    dim = [np.minimum(picture, 200) for picture in lamps]               # bright, but not a lamp: it moves
    assert np.abs(flow(*dim)).max() > 2


def test_the_rigid_part_is_found_beside_what_moves_by_itself():
    points = np.random.default_rng(0).uniform(-0.08, 0.08, (400, 3))
    turn = np.array([[1.01, -0.02, 0.03, 1e-3], [0.02, 1.01, -0.01, -2e-3],
                     [-0.03, 0.01, 1.01, 0], [0, 0, 0, 1]])
    moves = (points @ turn[:3, :3].T + turn[:3, 3] - points)[:, :2]
    moves[:120] += [0, 0.003]                                  # a brow
    np.testing.assert_allclose(rigid_part(points, moves), turn, atol=1e-4)


def test_similarities_by_hand():
    """Six points on the axes, covariance 18, 8, 2. Turned and doubled: undone. Mirrored: no rotation undoes
    that; the least squares are those of the mean scale (18 + 8 - 2) / 28."""
    target = np.array([[3, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1.0]])
    turned = 2 * target @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) + [1, 2, 3]
    mirrored = target * [1, 1, -1] + [1, 2, 3]
    matrix, shift = similarity(np.stack([turned, mirrored]), target)
    np.testing.assert_allclose(turned @ matrix[0].T + shift[0], target, atol=1e-12)
    np.testing.assert_allclose(matrix[0], [[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0.5]], atol=1e-12)
    np.testing.assert_allclose(matrix[1], np.eye(3) * 6 / 7, atol=1e-12)
    np.testing.assert_allclose(shift[1], [-6 / 7, -12 / 7, -18 / 7], atol=1e-12)


def test_posed_by_hand():
    pose = torch.tensor([[[8.0, 0, 0, 0.1], [0, -8, 0, 0], [0, 0, -8, 0.2]]])
    surface = Surfaces(torch.tensor([[[0.1, 0.05, 0.01]]]), torch.zeros(1, 3), pose, torch.tensor([True]))
    torch.testing.assert_close(surface.posed()[0, 0], torch.tensor([0.9, -0.4, 0.12]))


def test_the_answer_is_the_same_again_and_the_pictures_stay(mesh, crop):
    before = crop.clone()
    first = mesh.views(crop)[0]
    assert torch.equal(first[0], mesh.views(torch.cat([crop, crop]))[0][1]) and torch.equal(before, crop)


@pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="pytorch3d is not installed")
def test_pytorch3d_draws_the_same(mesh, crop):
    surface = mesh.reconstruct(crop)
    ours, theirs = (
        face_mesh.SurfaceRenderer(mesh.faces, mesh.fine.shape[0], 64, name).views(
            surface.vertices, surface.root, (-30, 10)) for name in ("torch", "pytorch3d"))
    assert ((ours - theirs).abs() < 0.01).float().mean() > 0.995


def test_a_missing_or_broken_model_is_one_line_with_the_command(monkeypatch, tmp_path):
    path = tmp_path / face_mesh.MODEL
    path.parent.mkdir(parents=True)
    folder = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    for content, spec in ((None, None), (None, folder), (b"broken", folder)):
        if content:
            path.write_bytes(content)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(InputError, match=r"pip install --no-deps mediapipe==0\.10\.21") as error:
            FaceMesh("cpu")
        assert "\n" not in str(error.value)


def test_which_reconstructor(official, tmp_path, mesh):
    assert deca.make_reconstructor("auto", "cpu", folder=tmp_path).name == "mesh"
    assert deca.make_reconstructor("mesh", "cpu", folder=official.folder).rule == mesh.rule
    assert set(mesh.model) == {"face_landmark.tflite", "face_topology.npz"}
    for name, message in (("deca", "--check"), ("magic", "choose one of")):
        with pytest.raises(InputError, match=message):
            deca.make_reconstructor(name, "cpu", folder=tmp_path)
    with pytest.raises(InputError, match="rasterizer"):
        deca.make_reconstructor("mesh", "cpu", "opengl")


def test_wrong_calls_are_refused(mesh, crop):
    with pytest.raises(ValueError, match="paint"):
        mesh.views(crop, "motion")
    for pictures in (crop.float(), crop[0], crop[..., :100]):
        with pytest.raises(ValueError, match="pictures"):
            mesh.views(pictures)
