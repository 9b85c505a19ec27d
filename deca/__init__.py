"""Picture of a face → head shape → views. Knows nothing of micro-expressions."""


def __getattr__(name):
    """`DECA` and `LandmarkFit` on first use, so that `import deca` stays quick and light."""
    if name == "DECA":
        from deca.model import DECA
        return DECA
    if name == "LandmarkFit":
        from deca.fitting import LandmarkFit
        return LandmarkFit
    raise AttributeError(f"module 'deca' has no attribute {name!r}")
