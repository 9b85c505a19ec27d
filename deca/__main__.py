"""Photographs → 3-D faces and thirteen views: `python -m deca PHOTO... --out DIR`.

PHOTO: a picture, a folder of pictures, a video (frames at --fps), or a .txt list of such paths. For each
picture, in a folder of its name: crop.png, views/<yaw>.png, sheet.jpg, textured.png, parameters.json, and
what the options ask for. `--check` says which official files are there.
Exit codes: 0 all went well, 1 some pictures failed (a line says why) or --check finds DECA unusable, 2
nothing could be done, 130 Ctrl-C.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from common.console import run_main
from common.errors import InputError
from common.files import write_json
from common.images import find_pictures, read_image, write_image
from deca import ASSETS, RECONSTRUCTORS, make_reconstructor
from deca.assets import check
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
    LandmarkDetector,
    crop_square,
    square_transform,
    transform_points,
    warp_square,
)
from deca.reconstructor import MESHES
from deca.renderer import YAWS
from deca.sheet import contact_sheet, motion_sheet

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
LARGE = 478                 # pixels of the photograph on the sheet
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
        try:
            for line in process(*read(), options.out / place, reconstructor, detector, options, onset):
                tqdm.write(f"deca: {line}", file=sys.stderr)
        except InputError as error:
            failed += 1
            tqdm.write(f"deca: {error}", file=sys.stderr)
    done = f"{len(pictures) - failed} of {len(pictures)} pictures done, {failed} failed"
    print(f"deca: {done}; in {options.out}")
    return 0 if not failed else 1 if failed < len(pictures) else 2


def _parser():
    parser = argparse.ArgumentParser(prog="python -m deca", description=__doc__.split("\n\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO",
                        help="a picture, a folder of them, a video, or a .txt list")
    parser.add_argument("--out", type=Path, default=Path("views"), metavar="DIR",
                        help="where the results go (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=5.0, help="frames a second taken from a video [5]")
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
                        help="what draws; auto: torch, the faster one (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--check", action="store_true", help="say which official files are there, and stop")
    return parser


def find_sources(paths, fps=5.0, out=Path("views")):
    """(result folder, read function) of each picture that `paths` name, in order; each folder is there once.

    fps: frames a second of a video; call the read functions of one in order. out: what lies in it, results
    of an earlier call, is left out of folders that are searched.
    Raises: InputError when nothing was named, a path does not exist, a folder, list or video holds no
    picture, or fps is not above 0.
    """
    if not paths:
        raise InputError("name at least one photograph, folder, video or list; see python -m deca --help")
    if not 0 < fps < 1e6:
        raise InputError(f"--fps {fps}: give frames a second, above 0")
    taken = set()
    for path in paths:
        for place, read in _of_path(path, fps, out.resolve()):
            number, free = 2, place
            while free in taken:
                free, number = place.with_name(f"{place.name}-{number}"), number + 1
            taken.add(free)
            yield free, read
    if not taken:
        raise InputError(f"{out}: every picture found lies in this folder of results; choose another --out")


def _of_path(path, fps, out):
    if path.suffix.lower() in VIDEOS and os.path.isfile(path):
        yield from _of_video(path, fps)
    elif path.suffix.lower() == ".txt" and os.path.isfile(path):
        try:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy it anew") from error
        lines = list(filter(None, map(str.strip, text.splitlines())))
        if not lines:
            raise InputError(f"{path}: an empty list; write a path on each line")
        for line in lines:
            if line.lower().endswith(".txt"):       # it may name itself
                raise InputError(f"{path}: names {line}; a list holds pictures, folders and videos, no lists")
            yield from _of_path(path.parent / line, fps, out)
    else:
        is_folder = os.path.isdir(path)
        base = Path(_plain(path.resolve().name)) if is_folder else Path()
        for found in find_pictures([path]):
            if is_folder and found.resolve().is_relative_to(out):
                continue
            above = found.relative_to(path).parent.parts if is_folder else ()
            yield base.joinpath(*above, _plain(found.stem)), lambda found=found: (found, read_image(found))


def _plain(name):
    """A folder's name from a file's: never empty, never a step up (a photograph may be called `...jpg`)."""
    return name.strip(". ") or "picture"


def _of_video(path, fps):
    """One source for every frame that a rate of `fps` takes: read when its turn comes, in order, for all of
    a video's would fill the memory."""
    video, later = cv2.VideoCapture(str(path)), cv2.VideoCapture(str(path))
    every, count, passed = max(1, round((video.get(cv2.CAP_PROP_FPS) or 25.0) / fps)), 0, 0
    while video.grab():
        count += 1
    if not count:
        raise InputError(f"{path}: no frame can be read from this video; convert it to .mp4")

    def read(number):
        """(what messages call it, the frame of this number); those before it are passed over."""
        nonlocal passed
        while passed <= number and later.grab():
            passed += 1
        whole, frame = later.retrieve()
        if not whole:
            raise InputError(f"{path}: frame {number} cannot be read; convert the video to .mp4")
        return Path(f"{path.name} frame {number}"), frame[..., ::-1].copy()

    for number in range(0, count, every):
        yield Path(_plain(path.stem)) / f"{number:06d}", functools.partial(read, number)


def process(path, photo, folder, reconstructor, detector, options, onset=None):
    """One photograph, uint8 (H, W, 3): write what is asked for into `folder`. Returns: lines to say.

    onset: the earlier frame that `--motion` names, or None. Raises: InputError where no face is found, and
    for an unwritable folder.
    """
    found = detector.detect(photo)
    if found is None:
        raise InputError(f"{path}: no face found; give a picture with a larger or more frontal face")
    center, side = crop_square(found.points)
    matrix, crop = square_transform(center, side), warp_square(photo, center, side)
    picture = torch.from_numpy(crop.transpose(2, 0, 1).copy())[None]                # (1, 3, 224, 224)
    surfaces = reconstructor.reconstruct(picture)
    if not surfaces.found[0]:
        raise InputError(f"{path}: something like a face was found, but no 3-D face; give a clearer picture")
    views = reconstructor.painted(surfaces, picture)[0].numpy()                     # (13, 224, 224)
    textured = reconstructor.painted(surfaces, picture, "texture")[0, 6].permute(1, 2, 0).numpy()
    yaw, pitch, roll = (float(angle) for angle in _angles(surfaces.pose[0].cpu().numpy()))
    write_image(folder / "crop.png", crop)
    write_image(folder / "textured.png", textured)
    for angle, view in zip(YAWS, views, strict=True):
        write_image(folder / "views" / f"{angle}.png", view)
    write_json(folder / "parameters.json", {
        "photo": path.name, "reconstructor": reconstructor.name, "model": reconstructor.model,
        "degrees": {"yaw": round(yaw, 2), "pitch": round(pitch, 2), "roll": round(roll, 2)},
        "faces_found": found.n_faces, "found_upsampled": found.upsampled,
        "crop": {"center": [round(float(v), 3) for v in center], "side": round(side, 3)},
        "landmarks": np.round(found.points.astype(float), 2).tolist()})
    _, normals, hit, _ = seen_pixels(reconstructor, surfaces, LARGE)
    large = warp_square(photo, center, side, LARGE)
    half = large.copy()
    half[:, LARGE // 2:] = overlaid(large, normals, hit)[:, LARGE // 2:]
    turned = f"yaw {round(yaw):+d}°, pitch {round(pitch):+d}°, roll {round(roll):+d}°"
    title = f"{path.name}   ·   {reconstructor.name}   ·   {turned}"
    write_image(folder / "sheet.jpg", contact_sheet(title, half, views, textured))
    _write_more(folder, reconstructor, surfaces, photo, found.points, center, side, matrix, options, onset)
    return _remarks(path, photo, found, center, side, yaw)


def _write_more(folder, reconstructor, surfaces, photo, points, center, side, matrix, options, onset):
    """What the options ask for."""
    if options.depth or options.normals or options.keypoints:
        depth, normals, _, seen = seen_pixels(reconstructor, surfaces)
    if options.depth:
        write_depth(folder / "depth.png", depth)
    if options.normals:
        write_normals(folder / "normals.png", normals)
    if options.keypoints:
        write_keypoints(folder, transform_points(matrix, points), seen, matrix)
    texture = warp_square(photo, center, side, TEXTURE_SIZE) if options.obj or options.mesh else None
    if options.obj:
        write_obj(folder, "mesh", surfaces, reconstructor.renderer.faces.cpu().numpy(), texture)
    for level in options.mesh:
        write_obj(folder, f"mesh-{level}", *reconstructor.mesh(surfaces, level), texture)
    if options.motion:
        write_image(folder / "motion.jpg", _motion(reconstructor, photo, center, side, onset, options))
    if options.overlay:
        size = max(CROP_SIZE, min(2048, round(side)))
        _, normals, hit, _ = seen_pixels(reconstructor, surfaces, size)
        back = cv2.invertAffineTransform(square_transform(center, side, size))
        shape = photo.shape[1], photo.shape[0]
        normals = cv2.warpAffine(normals.astype(np.float32), back, shape)
        hit = cv2.warpAffine(hit.astype(np.float32), back, shape) > 0.5
        write_image(folder / "overlay.png", overlaid(photo, normals, hit))


def _motion(reconstructor, photo, center, side, earlier, options):
    """The sheet of what the face did from `earlier` to `photo`, both cut by one square."""
    if earlier.shape != photo.shape:
        raise InputError(f"{options.motion}: of another size than the photograph; give two frames of a film")
    onset, apex = (warp_square(image, center, side) for image in (earlier, photo))
    pictures = torch.from_numpy(np.stack([onset, apex]).transpose(0, 3, 1, 2).copy())    # (2, 3, 224, 224)
    yaws = (YAWS[0], 0, YAWS[-1])
    motion, found = reconstructor.motion(pictures[0], pictures[1:], yaws)
    if not found[0]:
        raise InputError(f"{options.motion}: no 3-D face found; give another onset")
    faces = reconstructor.views(pictures[:1], "texture")[0][0, [YAWS.index(yaw) for yaw in yaws]]
    title = f"motion since {options.motion.name}   ·   {reconstructor.name}"
    return motion_sheet(title, onset, apex, motion[0].numpy(), faces.permute(0, 2, 3, 1).numpy(), yaws)


def _angles(pose):
    """yaw, pitch, roll in degrees of a pose (3, 4); image space has y and z negated."""
    matrix = pose[:, :3] * np.array([[1], [-1], [-1]])
    matrix = matrix / np.cbrt(np.linalg.det(matrix))
    return Rotation.from_matrix(matrix).as_euler("YXZ", degrees=True)


def _remarks(path, photo, found, center, side, yaw):
    """What a user should know of one picture."""
    height, width = photo.shape[:2]
    beyond = max((side / 2 - center).max(), (center + side / 2 - [width, height]).max()) / side
    lines = [f"{path}: {found.n_faces} faces, the largest is taken"] if found.n_faces > 1 else []
    lines += [f"{path}: the face is at the border, part of it is guessed"] if beyond > 0.15 else []
    return lines + ([f"{path}: seen from the side ({yaw:+.0f}°), half of the face is guessed"]
                    if abs(yaw) > PROFILE else [])


def _print_check():
    """The table of official files; returns 0 when every required one is there and whole, else 1."""
    rows = check(ASSETS)
    width = max(len(row.file) for row in rows)
    print(f"Official files in {ASSETS}:")
    for row in rows:
        need = "required" if row.required else "optional"
        print(f"  {row.status:8}{row.file:{width + 2}}{need}  {row.purpose}")
        if row.status != "present":
            print(f"  {'':8}{'':{width + 2}}{row.problem or 'get it: ' + row.source}")
    ready = all(row.status == "present" for row in rows if row.required)
    print("DECA can be used." if ready else
          "DECA cannot be used; auto takes mesh, without licensed files, while a required one is missing.")
    return 0 if ready else 1


if __name__ == "__main__":
    run_main(main, "what is finished is kept")
