"""disk.yml, and file systems made of folders."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder import disks
from builder.errors import BuildError
from builder.project import ROOT

LABEL = b"system_u:object_r:shadow_t:s0\0"


@pytest.mark.parametrize("name", disks.disk_names())
def test_every_disk_is_of_an_image(name: str) -> None:
    assert (ROOT / "images" / name / "image.yml").is_file()
    assert disks.load_disk(name)["size_mb"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("selinux_policy: default", "images/x/disk.yml: 'size_mb' is a required property"),
        ("{size_mb: 100, kernel: x}", "images/x/disk.yml: .*'kernel' was unexpected"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setattr(disks, "ROOT", tmp_path)
    (tmp_path / "images/x").mkdir(parents=True)
    (tmp_path / "images/x/disk.yml").write_text(text)
    with pytest.raises(BuildError, match=message):
        disks.load_disk("x")


@pytest.mark.skipif(not shutil.which("mke2fs"), reason="mke2fs is not installed (e2fsprogs)")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may label files")
def test_labels_of_files_get_onto_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/shadow").write_text("root:*")
    os.setxattr(root / "etc/shadow", "security.selinux", LABEL)
    made = []
    for name in ("first", "second"):
        disks._make_file_system(root, tmp_path / name, 64, f"sha256:{'0' * 64}")
        command = ["debugfs", "-R", "ea_list /etc/shadow", str(tmp_path / name)]
        made.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 'security.selinux (30) = "system_u:object_r:shadow_t:s0\\000"' in made[0]
    assert made[0] == made[1]
