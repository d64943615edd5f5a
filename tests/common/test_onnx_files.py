"""A file is whole or not there, and tools that print and log leave no trace."""

import logging

import pytest

from common.onnx_files import quiet, whole


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    """Until then the old one is what readers find; the suffix stays, since tools look at it."""
    path = tmp_path / "deep/model.onnx"
    with whole(path) as partial:
        partial.write_text("new")
        assert partial.suffix == ".onnx"
        assert not path.exists()
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]


def test_a_tool_that_fails_leaves_the_old_file(tmp_path):
    """Nothing half-written, under neither name."""
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), whole(path) as partial:
        partial.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_the_root_logger_is_as_it_was_after_a_noisy_tool(capsys):
    """A handler at level INFO, as one of the tools adds on import, would print for everybody."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with quiet():
        print("progress")
        logging.basicConfig(level=logging.INFO)
        root.addHandler(logging.StreamHandler())
    assert (root.level, root.handlers) == before
    assert capsys.readouterr().out == ""
