"""Pictures of a face → 3-D face → pictures of it. Knows nothing of micro-expressions."""

import importlib

HOMES = {"DECA": "deca.deca", "FaceMesh": "deca.face_mesh", "make_reconstructor": "deca.reconstructor"}


def __getattr__(name):
    """The names of `HOMES` on first use, so that `import deca` stays quick and light."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'deca' has no attribute {name!r}")
