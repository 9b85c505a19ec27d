"""Photographs → heads and thirteen views: `python -m deca PHOTO... --out DIR` (folders of frames too).

For each photograph, in a folder of its name: crop.png, views/<yaw>.png, sheet.jpg, parameters.json and, with
`--obj`, mesh.obj, mesh.mtl and mesh.png. `--check` says which official files are there.
Exit codes: 0 all went well, 1 some photographs failed (a line says why), 2 nothing could be done,
130 Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from capsule.inputs.views import RECONSTRUCTORS, choose_reconstructor, make_reconstructor
from common.errors import InputError
from common.files import write_json
from common.images import IMAGE_SUFFIXES, read_image, write_image
from deca.assets import check
from deca.export import photo_texture, write_obj
from deca.fitting import ASSETS
from deca.landmarks import (
    CROP_SIZE,
    LandmarkDetector,
    NoFaceError,
    crop_square,
    square_transform,
    transform_points,
    warp_square,
)
from deca.renderer import YAWS
from deca.sheet import ROWS, contact_sheet

SHEET_CROP = ROWS * CROP_SIZE       # pixels of the crop that the sheet shows
OVERLAY = 0.75                      # share of the head in the last tile of the sheet


def main(arguments=None):
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.check:
        return _print_check()
    try:
        photos = find_photos(options.photos)
        name, why = choose_reconstructor(options.reconstructor)
        print(f"deca: {why}", flush=True)
        reconstructor = make_reconstructor(name, options.device)
    except InputError as error:
        print(f"deca: {error}", file=sys.stderr)
        return error.exit_code
    try:
        failed = _work(photos, reconstructor, options)
    except KeyboardInterrupt:
        print(f"deca: stopped; what is finished lies in {options.out}", file=sys.stderr)
        return 130
    print(f"deca: {len(photos) - failed} of {len(photos)} photographs done, in {options.out}")
    return 0 if not failed else 1 if failed < len(photos) else 2


def _parser():
    parser = argparse.ArgumentParser(prog="python -m deca", description=__doc__.split("\n\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO",
                        help="a picture, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("views"), metavar="DIR",
                        help="where the results go (default: %(default)s)")
    parser.add_argument("--obj", action="store_true", help="write the textured mesh too")
    parser.add_argument("--reconstructor", choices=RECONSTRUCTORS, default="auto",
                        help="deca needs the official files; auto takes it where they are (default)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--check", action="store_true", help="say which official files are there, and stop")
    return parser


def find_photos(paths):
    """Pictures and folders → {result folder: picture}, in order; a folder's pictures lie under its name.

    Raises: InputError when nothing was named, or a path does not exist, or a folder holds no picture.
    """
    if not paths:
        raise InputError("name at least one photograph or folder, or --check; see python -m deca --help")
    photos = {}
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InputError(f"{path}: no picture ({', '.join(IMAGE_SUFFIXES)}) in this folder")
            base = path.resolve().name
            pairs = [(Path(base) / p.relative_to(path).with_suffix(""), p) for p in found]
        elif path.exists():
            pairs = [(Path(path.stem), path)]
        else:
            raise InputError(f"{path}: no such file or folder; check the path")
        for place, photo in pairs:
            number, free = 2, place
            while free in photos:
                free, number = place.with_name(f"{place.name}-{number}"), number + 1
            photos[free] = photo
    return photos


def _work(photos, reconstructor, options):
    """All photographs, with a progress bar and one line for each that fails; returns how many failed."""
    detector, failed = LandmarkDetector(), 0
    with tqdm(photos.items(), unit="photo", disable=len(photos) == 1) as bar:
        for place, path in bar:
            try:
                found = process(path, options.out / place, reconstructor, detector, options.obj)
            except InputError as error:
                failed += 1
                bar.write(f"deca: {error}", file=sys.stderr)
                continue
            if found.n_faces > 1:
                bar.write(f"deca: {path}: {found.n_faces} faces, the largest is taken", file=sys.stderr)
    return failed


def process(path, folder, reconstructor, detector, with_mesh=False):
    """One photograph at `path`: write its crop, views, sheet, parameters and, if asked, mesh into `folder`.

    Returns: the `Detection`. Raises: NoFaceError; InputError for an unreadable picture or unwritable folder.
    """
    photo = read_image(path)
    found = detector.detect(photo)
    if found is None:
        raise NoFaceError(f"{path}: no face found; give a picture with a larger or more frontal face")
    center, side = crop_square(found.points)
    matrix = square_transform(center, side)
    points, crop = transform_points(matrix, found.points), warp_square(photo, center, side)
    image = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255     # (H, W, 3) → (1, 3, H, W)
    known = {"points": points[None]} if reconstructor.name == "landmarks" else {}
    codes = reconstructor.encode(image, **known)
    views = _levels(reconstructor.thirteen_views(codes)[0, :, 0])               # (13, 224, 224)
    write_image(folder / "crop.png", crop)
    for yaw, view in zip(YAWS, views, strict=True):
        write_image(folder / "views" / f"{yaw}.png", view)
    parameters = _parameters(path, reconstructor, codes, found, center, side)
    write_json(folder / "parameters.json", parameters)
    shape = reconstructor.render(codes, "shape_detail")[0].permute(1, 2, 0)     # (3, H, W) → (H, W, 3)
    large = warp_square(photo, center, side, SHEET_CROP)
    sheet = contact_sheet(_title(path, parameters), large, points, views, _overlaid(crop, _levels(shape)))
    write_image(folder / "sheet.jpg", sheet)
    if with_mesh:
        _write_mesh(folder, reconstructor, codes, photo, matrix)
    return found


def _levels(image):
    """A tensor in [0, 1] → numpy uint8."""
    return image.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _overlaid(crop, shape):
    """The rendered head (224, 224, 3) laid on the crop it was fitted to."""
    share = OVERLAY * (shape > 0)
    return np.round(shape * share + crop * (1 - share)).astype(np.uint8)


def _parameters(path, reconstructor, codes, found, center, side):
    """What is known of one photograph, JSON types only."""
    values = {name: [round(float(v), 6) for v in value.flatten().tolist()] for name, value in codes.items()}
    yaw, pitch, roll = Rotation.from_rotvec(values["pose"][:3]).as_euler("YXZ", degrees=True)
    head = reconstructor.head
    named = dict(zip(head.expression_names, values["exp"], strict=True)) if head.expression_names else {}
    return {"photo": path.name, "reconstructor": reconstructor.name, "head": head.name, "codes": values,
            "degrees": {"yaw": round(yaw, 2), "pitch": round(pitch, 2), "roll": round(roll, 2)},
            "action_units": named, "faces_found": found.n_faces, "found_upsampled": found.upsampled,
            "crop": {"center": [round(float(v), 3) for v in center], "side": round(side, 3)},
            "landmarks": [[round(float(v), 2) for v in point] for point in found.points]}


def _title(path, parameters):
    degrees = parameters["degrees"]
    pose = ", ".join(f"{name} {value:+.0f}°" for name, value in degrees.items())
    return f"{path.name}   ·   {parameters['reconstructor']} ({parameters['head']} head)   ·   {pose}"


def _write_mesh(folder, reconstructor, codes, photo, matrix):
    """mesh.obj, in metres and facing the viewer, with the photograph's colours."""
    posed = reconstructor.decode(codes).verts
    texture = photo_texture(reconstructor.renderer, reconstructor.head, posed, codes["cam"], photo, matrix)
    frontal = torch.cat([torch.zeros_like(codes["pose"][:, :3]), codes["pose"][:, 3:]], dim=1)     # (1, 6)
    vertices = reconstructor.decode({**codes, "pose": frontal}).verts[0].cpu()
    write_obj(folder, "mesh", vertices, reconstructor.head, texture)


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
          "Until the required ones are there, the reconstructor is landmarks (no licensed file needed).")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
