"""Pictures of a face → 3-D face → pictures of it. Knows no clip, sheet, database or option."""

RECONSTRUCTORS = ("auto", "deca", "mesh")


def make_reconstructor(name="auto", device="auto", rasterizer="auto", folder=None):
    """A `Reconstructor`: "deca", "mesh", or "auto": DECA where all its files lie in `folder`, else mesh.

    device: "auto" (CUDA where there is one), "cpu", "cuda", ...; rasterizer: "auto", "torch" or "pytorch3d".
    folder: of the official files (None: deca/data).
    Raises: InputError for another name, device or rasteriser, and for files that are missing or broken.
    """
    from common.errors import InputError
    from deca.assets import ASSETS, has_official
    folder = folder or ASSETS
    if name not in RECONSTRUCTORS:
        raise InputError(f"reconstructor {name!r}: choose one of {', '.join(RECONSTRUCTORS)}")
    if name == "deca" and not has_official(folder):
        raise InputError(f"reconstructor deca: not all official files are in {folder}; "
                         "`python -m deca --check` lists them, or choose mesh")
    if name == "mesh" or not has_official(folder):
        from deca.face_mesh import FaceMesh
        return FaceMesh(device, rasterizer)
    from deca.deca import DECA
    return DECA.from_assets(folder, device, rasterizer)


def __getattr__(name):
    """`DECA` on first use, so that `import deca` stays quick and light."""
    if name == "DECA":
        from deca.deca import DECA
        return DECA
    raise AttributeError(f"module 'deca' has no attribute {name!r}")
