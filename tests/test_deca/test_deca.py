"""Codes to meshes, renders and views; DECA from generated official files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import deca
from common.device import choose_device
from common.errors import InputError
from deca.deca import DECA, check_images
from deca.networks import CODE_SIZES
from deca.reconstructor import Reconstructor
from deca.renderer import YAWS, project


@pytest.fixture(scope="module")
def reconstructor(official):
    return DECA.from_assets(official.folder)


@pytest.fixture(scope="module")
def codes():
    generator = torch.Generator().manual_seed(5)
    widths = {**CODE_SIZES, "detail": 128}
    made = {name: torch.randn(2, width, generator=generator) for name, width in widths.items()}
    made["pose"] = made["pose"] * 0.2
    made["cam"] = torch.tensor([[8.0, 0.0, 0.0], [7.0, 0.02, -0.01]])
    return {**made, "light": made["light"].unflatten(1, (9, 3))}


@pytest.fixture(scope="module")
def images():
    ramp = torch.linspace(0, 1, 224)
    first = torch.stack((ramp.expand(224, 224), ramp[:, None].expand(224, 224), torch.full((224, 224), 0.5)))
    return torch.stack((first, 1 - first))


# Means of 4 × 4 blocks of a fixed picture's views at -30 and 0 degrees, of the generated files.
VIEWS = {"shape_detail": [[[0.0, 40.3, 38.6, 0.0], [4.6, 152.6, 155.7, 8.2], [8.6, 163.3, 162.8, 12.3],
                           [0.0, 31.7, 54.8, 0.2]],
                          [[0.0, 38.9, 30.8, 0.0], [7.9, 151.4, 136.8, 3.6], [7.5, 149.5, 155.2, 9.1],
                           [0.0, 32.8, 47.7, 0.0]]],
         "texture": [[[0.0, 38.8, 36.8, 0.0], [6.3, 127.8, 121.9, 0.1], [11.3, 131.4, 93.0, 0.0],
                      [0.0, 18.5, 4.8, 0.0]],
                     [[0.0, 40.2, 32.7, 0.0], [9.9, 129.5, 127.0, 4.1], [8.6, 127.3, 129.0, 6.4],
                      [0.0, 14.8, 15.0, 0.0]]]}


@pytest.mark.parametrize("paint", VIEWS)
def test_a_change_of_the_pixels_needs_a_new_version(paint, reconstructor, images):
    assert reconstructor.version == 5
    views = reconstructor.views((images[:1] * 255).round().to(torch.uint8), paint)[0][0, [0, 6]].double()
    grey = views.mean(1) if paint == "texture" else views
    blocks = grey.unflatten(-1, (4, 56)).unflatten(-3, (4, 56)).mean((-3, -1))
    assert blocks.numpy() == pytest.approx(np.array(VIEWS[paint]), abs=0.3)


def test_encode_gives_the_codes_of_the_two_encoders(reconstructor, images):
    codes = reconstructor.encode(images)
    assert {name: tuple(value.shape) for name, value in codes.items()} == {
        "shape": (2, 100), "tex": (2, 50), "exp": (2, 50), "pose": (2, 6), "cam": (2, 3), "light": (2, 9, 3),
        "detail": (2, 128)}
    with torch.no_grad():
        coarse = reconstructor.networks["E_flame"](images)
        assert torch.equal(codes["detail"], reconstructor.networks["E_detail"](images))
    together = torch.cat([codes[name].flatten(1) for name in CODE_SIZES], dim=1)
    assert torch.equal(together, coarse)
    assert not torch.equal(codes["shape"][0], codes["shape"][1])


def test_networks_predict_and_do_not_learn(reconstructor):
    for network in reconstructor.networks.values():
        assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_decode(reconstructor, codes):
    mesh = reconstructor.decode(codes)
    assert mesh.verts.shape == (2, 5023, 3) and mesh.landmarks3d.shape == (2, 68, 3)
    assert mesh.displacement.shape == (2, 1, 256, 256) and mesh.displacement.std() > 0
    posed = reconstructor.flame(codes["shape"], codes["exp"], codes["pose"])
    assert torch.equal(mesh.verts, posed.verts) and torch.equal(mesh.landmarks3d, posed.landmarks3d)


def test_detail_depends_on_jaw_expression_and_detail_alone(reconstructor, codes):
    before = reconstructor.decode(codes).displacement
    for name in ("shape", "tex", "cam", "light"):
        changed = {**codes, name: codes[name] + 1}
        assert torch.equal(reconstructor.decode(changed).displacement, before), name
    for name in ("exp", "detail", "pose"):
        changed = {**codes, name: codes[name] + 1}
        assert not torch.equal(reconstructor.decode(changed).displacement, before), name
    turned = {**codes, "pose": codes["pose"] + torch.tensor([1.0, 1, 1, 0, 0, 0])}
    assert torch.equal(reconstructor.decode(turned).displacement, before)


def test_render_modes(reconstructor, codes, images):
    mesh = reconstructor.decode(codes)
    for mode in ("shape", "shape_detail", "texture"):
        given = images if mode == "texture" else None
        found = reconstructor.render(codes, mode=mode, images=given)
        assert found.shape == (2, 3, 224, 224) and found.min() >= 0 and found.max() <= 1
        wanted = reconstructor.renderer.render(mesh.verts, codes["cam"], mode, mesh.displacement, given)
        assert torch.equal(found, wanted)
        assert 0.1 < (found.amax(1) > 0).float().mean() < 0.9        # a head before an empty background
    assert not torch.equal(reconstructor.render(codes, "shape"), reconstructor.render(codes, "shape_detail"))
    with pytest.raises(ValueError, match="images"):
        reconstructor.render(codes, mode="texture")
    with pytest.raises(ValueError, match="mode"):
        reconstructor.render(codes, mode="photo")


def test_thirteen_views_are_renders_of_the_head_posed_at_each_yaw(reconstructor, codes):
    views = reconstructor.thirteen_views(codes)
    assert views.shape == (2, 13, 3, 224, 224)
    assert YAWS == (-30, -25, -20, -15, -10, -5, 0, 5, 10, 15, 20, 25, 30)
    for index in (0, 6, 9):
        pose = codes["pose"].clone()
        pose[:, :3] = torch.tensor([0, np.deg2rad(YAWS[index]), 0])
        posed = {**codes, "pose": pose, "cam": torch.tensor([[8.0, 0, 0]]).expand(2, 3)}
        difference = (reconstructor.render(posed, "shape_detail") - views[:, index]).abs()
        assert difference.mean() < 1e-4
        assert (difference.amax(1) > 1 / 255).float().mean() < 1e-3      # pixels on an edge


def test_thirteen_views_forget_head_pose_and_camera(reconstructor, codes):
    before = reconstructor.thirteen_views(codes)
    turned = codes["pose"] + torch.tensor([0.3, -0.5, 0.2, 0, 0, 0])
    moved = {**codes, "cam": codes["cam"] * 0.9, "pose": turned}
    assert torch.equal(reconstructor.thirteen_views(moved), before)
    jaw = {**codes, "pose": codes["pose"] + torch.tensor([0, 0, 0, 0.3, 0, 0])}
    assert not torch.equal(reconstructor.thirteen_views(jaw), before)


def test_codes_are_unchanged(reconstructor, codes, images):
    before = {name: value.clone() for name, value in codes.items()}
    reconstructor.decode(codes)
    reconstructor.render(codes, "texture", images)
    reconstructor.thirteen_views(codes)
    assert set(before) == set(codes) and all(torch.equal(before[name], codes[name]) for name in before)


def test_surfaces_lie_where_the_decoded_heads_are_projected(reconstructor, codes):
    surfaces = reconstructor._surfaces(codes)
    projected = project(reconstructor.decode(codes).verts, codes["cam"])
    torch.testing.assert_close(surfaces.posed(), projected, rtol=0, atol=1e-5)
    assert torch.equal(surfaces.displacement, reconstructor.decode(codes).displacement)


def test_the_detailed_mesh_is_the_head_moved_along_its_normals(reconstructor, codes):
    surfaces = reconstructor._surfaces(codes)
    coarse, faces = reconstructor.mesh(surfaces, "coarse")
    assert coarse is surfaces and faces.shape == (9976, 3)
    dense, triangles = reconstructor.mesh(surfaces, "detailed")
    count = int(reconstructor.renderer.uv_inside.sum())
    assert dense.vertices.shape == (2, count, 3) and triangles.max() == count - 1 and len(triangles) > count
    without = surfaces._replace(displacement=torch.zeros_like(surfaces.displacement) - 1)
    moved = dense.vertices - reconstructor.mesh(without, "detailed")[0].vertices
    inside = reconstructor.renderer.uv_inside.flatten()
    height = ((surfaces.displacement + 1) * reconstructor.renderer.mask).flatten(2)[:, 0, inside]
    normals = reconstructor.renderer.uv_map(reconstructor.renderer.vertex_normals(surfaces.vertices))
    normals = normals.flatten(2)[..., inside].transpose(1, 2)
    torch.testing.assert_close(moved, normals * height[..., None], rtol=0, atol=1e-5)
    flat = reconstructor.renderer.uv_map(surfaces.vertices).flatten(2)[..., inside].transpose(1, 2)[0].numpy()
    a, b, c = (flat[triangles[:, k]] for k in range(3))
    outward = np.einsum("fc,fc->f", np.cross(b - a, c - a), normals[0].numpy()[triangles[:, 0]])
    assert (outward > 0).mean() > 0.99


def test_the_interface_that_both_reconstructors_share(reconstructor, images):
    pictures = (images * 255).round().to(torch.uint8)
    views, found = reconstructor.views(pictures)
    expected = reconstructor.thirteen_views(reconstructor.encode(pictures.float() / 255))[:, :, 0]
    assert found.tolist() == [True, True] and torch.equal(views, (expected * 255).round().to(torch.uint8))
    textured, _ = reconstructor.views(pictures, "texture")
    assert textured.shape == (2, 13, 3, 224, 224) and textured.float().std() > 1
    moved, found = reconstructor.motion(pictures[0], pictures[:1], (0, 15))
    assert moved.shape == (1, 2, 3, 224, 224) and found.tolist() == [True] and moved.abs().max() < 0.05
    assert reconstructor.rule["rule"] == "deca" and set(reconstructor.model) >= {"deca_model.tar"}


@pytest.mark.parametrize(("images", "message"), [
    (torch.zeros(1, 3, 112, 112), r"expected \(B, 3, 224, 224\), found \(1, 3, 112, 112\)"),
    (torch.zeros(3, 224, 224), r"expected \(B, 3, 224, 224\)"), (torch.zeros(0, 3, 224, 224), "expected"),
    (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "float tensor"),
    (np.zeros((1, 3, 224, 224)), "float tensor"),
    (torch.full((1, 3, 224, 224), 255.0), r"in \[0, 1\], found 255 to 255"),
    (torch.full((1, 3, 224, 224), -0.1), r"in \[0, 1\]"),
    (torch.full((1, 3, 224, 224), torch.nan), r"in \[0, 1\]")])
def test_unsuitable_images_are_described(reconstructor, images, message):
    with pytest.raises(ValueError, match=message):
        reconstructor.encode(images)


def test_suitable_images_pass(images):
    check_images(images)
    check_images(torch.zeros(1, 3, 224, 224))
    check_images(torch.ones(1, 3, 224, 224, dtype=torch.float64))


def test_codes_of_unequal_numbers_are_refused(reconstructor, codes):
    with pytest.raises(ValueError, match="the same number of pictures"):
        reconstructor.decode({**codes, "exp": codes["exp"][:1]})
    with pytest.raises(ValueError, match="the same number of pictures"):
        reconstructor.thirteen_views({name: value[:0] for name, value in codes.items()})


@pytest.mark.parametrize("device", ["tpu9", "", "mps:0", "cuda:99"])
def test_a_device_that_is_not_there_is_named(official, device):
    with pytest.raises(InputError, match=f"--device {device}:"):
        DECA.from_assets(official.folder, device=device)


def test_devices_that_are_there():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device("cuda").type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_on_the_gpu_equal_those_on_the_cpu(official, reconstructor, codes):
    on_gpu = DECA.from_assets(official.folder, device="cuda")
    difference = (on_gpu.thirteen_views(codes).cpu() - reconstructor.thirteen_views(codes)).abs()
    assert (difference.amax(2) > 1 / 255).float().mean() < 1e-3
    verts = on_gpu.decode(codes).verts.cpu()
    torch.testing.assert_close(verts, reconstructor.decode(codes).verts, rtol=0, atol=1e-6)


def test_missing_files_are_said_before_anything_is_built(tmp_path):
    with pytest.raises(InputError, match=r"generic_model\.pkl: no such file"):
        DECA.from_assets(tmp_path)


def test_the_package_exports_lazily():
    assert deca.DECA is DECA
    assert issubclass(DECA, Reconstructor)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = deca.Nothing
    code = "import sys, deca; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(deca.__file__).parents[1])
