"""scripts/readme: what runs, what is left out, and that a block that fails is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT


def run_blocks(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, str(ROOT / "scripts/readme.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


GOOD = """
```python
from pathlib import Path
x = 20
```

<!-- exit: 2 -->
```console
$ isograd init first.toml \\
    # a comment
wrote it
$ isograd show nowhere
```

```python
assert Path("first.toml").exists() and Path("examples").is_dir() and x == 20
```

<!-- skip: takes too long -->
```bash
$ scripts/demo
```

```toml
this is not run
```
"""


def test_blocks_of_a_readme_run(tmp_path: Path) -> None:
    done = run_blocks(tmp_path / "good.md", GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("3 blocks ran, 1 left out\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n\nx.y\n```", "no attribute 'y'"),
        ("```python\nimport sys\nsys.exit()\n```", "SystemExit"),
        ("```console\n$ isograd show nowhere\n```", "exit code 2, not 0: isograd show nowhere"),
        ("<!-- exit: 1 -->\n```console\n$ isograd --version\n```", "exit code 0, not 1"),
        ("```bash\n$ isograd --version\n$ ls\n```", "no other commands (came: ls)"),
        ("```bash\nls\n```", "(came: none)"),
        ("<!-- skipp -->\n```python\n1\n```", "must be a skip or an exit"),
        ("<!-- exit: 1 -->\n```python\n1\n```", "a Python block has no exit code"),
        ("No code at all.", "no block to run (0 left out)"),
        ("<!-- skip -->\n```python\n1\n```", "no block to run (1 left out)"),
    ],
)
def test_a_block_that_fails_is_seen(text: str, message: str, tmp_path: Path) -> None:
    done = run_blocks(tmp_path / "bad.md", text)
    assert done.returncode == 1
    assert message in done.stderr
