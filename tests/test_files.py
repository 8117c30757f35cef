"""Tests that a file or folder appears only when it is complete."""

import pytest

from data_pipeline import files


def fail(block, make):
    """Does something inside a block, which then fails."""
    with block as path:
        make(path)
        raise KeyboardInterrupt


@pytest.mark.parametrize("make", [lambda path: path.write_text("new"), lambda path: path.mkdir()])
def test_a_file_or_folder_appears_when_the_block_ends(tmp_path, make):
    with pytest.raises(KeyboardInterrupt):
        fail(files.atomic(tmp_path / "a"), make)
    assert not list(tmp_path.iterdir())
    with files.atomic(tmp_path / "a") as partial:
        make(partial)
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    files.write_text(tmp_path / "a", "one")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "one"
    files.write_text(tmp_path / "a", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "two")]


def test_only_new_and_empty_parents_are_removed(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(files.made_parents(tmp_path / "old/a/b/c"), lambda _: (tmp_path / "old/a/kept").write_text(""))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept", "old"]
    with files.made_parents(tmp_path / "d" / "e"):
        assert (tmp_path / "d").is_dir()
    assert (tmp_path / "d").is_dir()
