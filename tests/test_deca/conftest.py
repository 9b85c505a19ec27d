"""One folder of generated official files for all tests that only read it (60 MB, removed at the end)."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_deca.official_files import write_official_files


@pytest.fixture(scope="session")
def official():
    """.folder with all required files, .arrays of generic_model.pkl, .uv of its vertices, .checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        arrays, uv, checkpoint = write_official_files(folder)
        yield SimpleNamespace(folder=Path(folder), arrays=arrays, uv=uv, checkpoint=checkpoint)
