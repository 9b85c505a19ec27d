"""Photographs → 3-D faces and thirteen views: `python -m deca PHOTO... --out DIR`.

PHOTO: a picture, a folder of pictures, a video (frames at --fps), or a .txt list of such paths. For each
picture, in a folder of its name: crop.png, views/<yaw>.png, sheet.jpg, textured.png, parameters.json, and
what the options ask for. `--check` says which official files are there.

depth.png and normals.png lie on crop.png, pixel for pixel. Depth: 16 bits, the face's nearest point 65535,
its farthest 1, no face 0. Normals: red right, green up, blue towards the viewer, each (n + 1) / 2.
keypoints.json: pixels of the photograph, x right, y down, z away from the viewer. Meshes: the head frontal,
x right, y up, z towards the viewer.

Exit codes: 0 all went well, 1 some pictures failed (a line says why) or --check finds DECA unusable, 2
nothing could be done, 130 Ctrl-C.
"""

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from common.cache import digest
from common.console import KEPT, Parser, run_main
from common.errors import InputError, printable
from common.files import read_json, write_json
from common.images import read_image, write_image
from deca import RECONSTRUCTORS, make_reconstructor
from deca.assets import ASSETS, check
from deca.export import (
    TEXTURE_SIZE,
    overlaid,
    seen_pixels,
    write_depth,
    write_keypoints,
    write_normals,
    write_obj,
)
from deca.landmarks import (
    CROP_SIZE,
    Detection,
    LandmarkDetector,
    crop_square,
    square_transform,
    warp_square,
)
from deca.reconstructor import MESHES
from deca.renderer import YAWS
from deca.sheet import LARGE, contact_sheet, motion_sheet
from deca.sources import find_sources

MADE = ("parameters.json", "sheet.jpg", "crop.png", "textured.png", *(f"views/{yaw}.png" for yaw in YAWS))
MORE = ("depth.png", "normals.png", "keypoints.json", "overlay.png", "motion.jpg",
        *(f"mesh{level}.{kind}" for level in ("", "-coarse", "-detailed") for kind in ("obj", "mtl", "png")))
PROFILE = 50                # degrees of yaw beyond which half of the face is guessed


def main(arguments=None):
    """Run the command line; returns the exit code. Raises: InputError when nothing can be done."""
    options = _parser().parse_args(arguments)
    return _print_check() if options.check else _run(options)


def _run(options):
    """All pictures that the options name; returns the exit code."""
    pictures = list(find_sources(options.photos, options.fps, options.out))
    onset = options.motion and read_image(options.motion)
    reconstructor = make_reconstructor(options.reconstructor, options.device, options.rasterizer)
    print(f"deca: reconstructor {reconstructor.name}", flush=True)
    detector, failed = LandmarkDetector(), 0
    for place, read in tqdm(pictures, unit="picture", disable=None if len(pictures) > 1 else True):
        folder, photo = options.out / place, None
        try:
            path, photo = read()
            for line in process(path, photo, folder, reconstructor, detector, options, onset):
                tqdm.write(f"deca: {printable(line)}", file=sys.stderr)
        except InputError as error:
            failed += 1
            tqdm.write(f"deca: {error}", file=sys.stderr)
            if photo is None:
                _clear(folder)
    done = f"{len(pictures) - failed} of {len(pictures)} pictures done, {failed} failed"
    print(f"deca: {done}; in {options.out}")
    return 0 if not failed else 1 if failed < len(pictures) else 2


def _parser():
    parser = Parser(prog="python -m deca", description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO",
                        help="a picture, a folder of them, a video, or a .txt list")
    parser.add_argument("--out", type=Path, default=Path("views"), metavar="DIR",
                        help="where the results go (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=5.0,
                        help="about how many frames a second of a video: every n-th is taken [5]")
    parser.add_argument("--mesh", action="append", choices=MESHES, default=[],
                        help="write a textured mesh too (twice for both); coarse: FLAME's head or the face "
                             "mesh's 468 points; detailed: with DECA's detail, or subdivided twice")
    for name, text in (("obj", "mesh.obj, the textured surface that the views show,"),
                       ("depth", "depth.png"), ("normals", "normals.png"),
                       ("keypoints", "68 points, 2-D and 3-D,"),
                       ("overlay", "the face on the photograph, at its size,")):
        parser.add_argument(f"--{name}", action="store_true", help=f"write {text} too")
    parser.add_argument("--motion", type=Path, metavar="ONSET",
                        help="write motion.jpg too: what the face did since this earlier frame of the film")
    parser.add_argument("--reconstructor", choices=RECONSTRUCTORS, default="auto",
                        help="deca needs the official files; auto (default): deca where they are, else mesh")
    parser.add_argument("--rasterizer", choices=("auto", "torch", "pytorch3d"), default="auto",
                        help="what draws; auto: torch (default); pytorch3d takes minutes a picture on a CPU")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--check", action="store_true", help="say which official files are there, and stop")
    return parser


class Portrait(NamedTuple):
    """A photograph, uint8 (H, W, 3), from `path`, and the largest face in it."""

    path: Path
    photo: np.ndarray
    found: Detection
    square: tuple           # round the face: centre (2,) and side, pixels

    def cut(self, size=CROP_SIZE):
        """The square as (size, size, 3) uint8."""
        return warp_square(self.photo, *self.square, size)


def process(path, photo, folder, reconstructor, detector, options, onset=None):
    """One photograph, uint8 (H, W, 3): write what is asked for into `folder`. Returns: lines to say.

    onset: the earlier frame that `--motion` names, or None. Raises: InputError where no face is found, and
    for an unwritable folder.
    """
    source = {"photo": path.name, "photo_digest": digest(photo.shape, photo.tobytes()),
              "reconstructor": reconstructor.name, "model": reconstructor.model,
              "made by": reconstructor.rule}
    if not _is_of(folder, source):
        _clear(folder)
    found = detector.detect(photo)
    if found is None:
        raise InputError(f"{path}: no face found; give a picture with a larger, upright, more frontal face")
    portrait = Portrait(path, photo, found, crop_square(found.points))
    (center, side), crop = portrait.square, portrait.cut()
    picture = torch.from_numpy(crop.transpose(2, 0, 1).copy())[None]                # (1, 3, 224, 224)
    surfaces = reconstructor.reconstruct(picture)
    if not surfaces.found[0]:
        raise InputError(f"{path}: something like a face was found, but no 3-D face; give a clearer picture")
    views = reconstructor.painted(surfaces, picture)[0].numpy()                     # (13, 224, 224)
    textured = reconstructor.painted(surfaces, picture, "texture")[0, 6].permute(1, 2, 0).numpy()
    yaw, pitch, roll = (float(angle) for angle in _angles(surfaces.pose[0].cpu().numpy()))
    facts = {
        **source, "degrees": {"yaw": round(yaw, 2), "pitch": round(pitch, 2), "roll": round(roll, 2)},
        "faces_found": found.n_faces, "found_upsampled": found.upsampled,
        "crop": {"center": [round(float(v), 3) for v in center], "side": round(side, 3)},
        "landmarks": np.round(found.points.astype(float), 2).tolist()}
    write_image(folder / "crop.png", crop)
    write_image(folder / "textured.png", textured)
    for angle, view in zip(YAWS, views, strict=True):
        write_image(folder / "views" / f"{angle}.png", view)
    write_json(folder / "parameters.json", facts)
    _, normals, hit = seen_pixels(reconstructor, surfaces, LARGE)
    half = portrait.cut(LARGE)
    half[:, LARGE // 2:] = overlaid(half, normals, hit)[:, LARGE // 2:]
    turned = f"yaw {round(yaw):+d}°, pitch {round(pitch):+d}°, roll {round(roll):+d}°"
    title = f"{printable(path.name)}   ·   {reconstructor.name}   ·   {turned}"
    write_image(folder / "sheet.jpg", contact_sheet(title, half, views, textured))
    _write_more(folder, reconstructor, surfaces, portrait, options)
    if options.motion:
        write_image(folder / "motion.jpg", _motion(reconstructor, portrait, onset, options.motion))
    return _remarks(portrait, yaw)


def _is_of(folder, source):
    """Whether an earlier call wrote into `folder` from the same picture, by the same reconstructor."""
    try:
        stored = read_json(folder / "parameters.json")
    except InputError:
        return False
    return {name: stored.get(name) for name in source} == source


def _clear(folder):
    """Remove what an earlier call wrote into `folder`; where there was none, nothing."""
    if not (folder / "parameters.json").exists():
        return
    for name in (*MADE, *MORE):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _write_more(folder, reconstructor, surfaces, portrait, options):
    """What the options ask for of this photograph alone."""
    if options.depth or options.normals or options.keypoints:
        points, normals, hit = seen_pixels(reconstructor, surfaces)
    if options.depth:
        write_depth(folder / "depth.png", points, hit)
    if options.normals:
        write_normals(folder / "normals.png", normals, hit)
    if options.keypoints:
        write_keypoints(folder, portrait.found.points, points, hit, square_transform(*portrait.square))
    texture = portrait.cut(TEXTURE_SIZE) if options.obj or options.mesh else None
    if options.obj:
        write_obj(folder, "mesh", surfaces, reconstructor.renderer.faces.cpu().numpy(), texture)
    for level in options.mesh:
        write_obj(folder, f"mesh-{level}", *reconstructor.mesh(surfaces, level), texture)
    if options.overlay:
        size = max(CROP_SIZE, min(2048, round(portrait.square[1])))
        _, normals, hit = seen_pixels(reconstructor, surfaces, size)
        back = cv2.invertAffineTransform(square_transform(*portrait.square, size))
        height, width = portrait.photo.shape[:2]
        normals = cv2.warpAffine(normals.astype(np.float32), back, (width, height))
        hit = cv2.warpAffine(hit.astype(np.float32), back, (width, height)) > 0.5
        write_image(folder / "overlay.png", overlaid(portrait.photo, normals, hit))


def _motion(reconstructor, portrait, earlier, name):
    """The sheet of what the face did since `earlier`, the frame of the file `name`, by the same square."""
    if earlier.shape != portrait.photo.shape:
        raise InputError(f"{portrait.path}: {name}: of another size than the photograph; give two "
                         "frames of a film")
    onset, apex = warp_square(earlier, *portrait.square), portrait.cut()
    pictures = torch.from_numpy(np.stack([onset, apex]).transpose(0, 3, 1, 2).copy())    # (2, 3, 224, 224)
    yaws = (YAWS[0], 0, YAWS[-1])
    motion, found = reconstructor.motion(pictures[0], pictures[1:], yaws)
    if not found[0]:
        raise InputError(f"{portrait.path}: {name}: no 3-D face found; give another onset")
    faces = reconstructor.views(pictures[:1], "texture")[0][0, [YAWS.index(yaw) for yaw in yaws]]
    title = f"motion since {name.name}   ·   {reconstructor.name}"
    return motion_sheet(title, onset, apex, motion[0].numpy(), faces.permute(0, 2, 3, 1).numpy(), yaws)


def _angles(pose):
    """yaw, pitch, roll in degrees of a pose (3, 4); image space has y and z negated."""
    matrix = pose[:, :3] * np.array([[1], [-1], [-1]])
    matrix = matrix / np.cbrt(np.linalg.det(matrix))
    return Rotation.from_matrix(matrix).as_euler("YXZ", degrees=True)


def _remarks(portrait, yaw):
    """What a user should know of one picture."""
    (height, width), faces = portrait.photo.shape[:2], portrait.found.n_faces
    center, side = portrait.square
    beyond = max((side / 2 - center).max(), (center + side / 2 - [width, height]).max()) / side
    remarks = {f"{faces} faces, the largest is taken": faces > 1,
               "the face is at the border, part of it is guessed": beyond > 0.15,
               f"seen from the side ({yaw:+.0f}°), half of the face is guessed": abs(yaw) > PROFILE}
    return [f"{portrait.path}: {remark}" for remark, applies in remarks.items() if applies]


def _print_check():
    """The table of official files; returns 0 when every required one is there and whole, else 1."""
    rows = check(ASSETS)
    width = max(len(row.file) for row in rows) + 2
    print(f"Official files in {ASSETS}; its README.md says what they are for and where to get them:")
    for row in rows:
        note = row.problem or ("required" if row.required else "optional")
        print(f"  {row.status:8}{row.file:{width}}{note}")
    ready = all(row.status == "present" for row in rows if row.required)
    print("DECA can be used." if ready else
          "DECA cannot be used while a required file is missing or bad; auto takes mesh, which needs none, "
          "where one is missing, and stops at a bad one.")
    return 0 if ready else 1


if __name__ == "__main__":
    run_main(main, KEPT)
