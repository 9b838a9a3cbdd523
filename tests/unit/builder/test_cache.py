"""The build cache: keys from contents, nothing half-made, locks that hold."""

import multiprocessing
from pathlib import Path

import pytest

from builder import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_digest_ignores_the_order_of_mappings() -> None:
    assert cache.digest({"a": 1, "b": [1, 2]}) == cache.digest({"b": [1, 2], "a": 1})
    assert cache.digest({"b": [1, 2]}) != cache.digest({"b": [2, 1]})


def make_tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "a.c").write_text("int a;")
    (root / "sub" / "b.sh").write_text("true")
    (root / "link").symlink_to("a.c")
    return root


def test_tree_digest_sees_contents_names_modes_and_links(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    seen = {cache.tree_digest(tree)}
    (tree / "a.c").write_text("int b;")
    seen.add(cache.tree_digest(tree))
    (tree / "sub" / "b.sh").chmod(0o755)
    seen.add(cache.tree_digest(tree))
    (tree / "link").unlink()
    (tree / "link").symlink_to("sub")
    seen.add(cache.tree_digest(tree))
    (tree / "a.c").rename(tree / "c.c")
    seen.add(cache.tree_digest(tree))
    assert len(seen) == 5


def test_tree_digest_leaves_out_what_tools_make(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = cache.tree_digest(tree)
    (tree / "a.o").write_text("object")
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "m.pyc").write_text("code")
    (tree / ".mypy_cache").mkdir()
    (tree / ".mypy_cache" / "x.json").write_text("{}")
    assert cache.tree_digest(tree) == before


def test_an_entry_appears_when_it_is_whole() -> None:
    with cache.new_entry("images", "x-1") as folder:
        (folder / "image.tar").write_text("half")
        assert not cache.entry("images", "x-1").exists()
    assert (cache.entry("images", "x-1") / "image.tar").read_text() == "half"


def fail_while_building() -> None:
    with cache.new_entry("images", "x-1") as folder:
        (folder / "image.tar").write_text("half")
        raise RuntimeError("killed")


def test_a_failed_build_leaves_nothing() -> None:
    with pytest.raises(RuntimeError):
        fail_while_building()
    assert list((cache.root() / "images").iterdir()) == []


def test_prune_keeps_what_was_used_last() -> None:
    for number in range(5):
        with cache.new_entry("images", f"x-{number}"):
            pass
    with cache.new_entry("images", "other-0"):
        pass
    for age, number in enumerate([3, 0, 4, 2, 1]):
        import os

        os.utime(cache.entry("images", f"x-{number}"), (0, 1000 - age))
    (cache.root() / "images" / ".building-x-9").mkdir()
    cache.prune("images", "x")
    assert sorted(path.name for path in (cache.root() / "images").iterdir()) == ["other-0", "x-0", "x-3"]


def _hold(entered: "multiprocessing.synchronize.Event", leave: "multiprocessing.synchronize.Event") -> None:
    with cache.locked("x"):
        entered.set()
        leave.wait(30)


def _enter(done: "multiprocessing.synchronize.Event") -> None:
    with cache.locked("x"):
        done.set()


def test_a_lock_makes_the_second_build_wait() -> None:
    context = multiprocessing.get_context("fork")
    entered, leave, done = context.Event(), context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(entered, leave))
    holder.start()
    assert entered.wait(30)
    waiter = context.Process(target=_enter, args=(done,))
    waiter.start()
    assert not done.wait(0.3)
    leave.set()
    assert done.wait(30)
    holder.join()
    waiter.join()
