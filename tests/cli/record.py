"""Record the terminal session that the docs show: `python -m tests.cli.record` writes docs/images/cli.svg."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.onebox_process import onebox_process
from tests.pythons import ROOT

PATH = ROOT / "docs" / "images" / "cli.svg"
SESSION = (
    "set user:7 name Ada --ttl 7d",
    "mset user:7 mail ada@example.org nick 'al\\x00'",
    "scan user:7 --ttl",
    "get user:7 nobody",
    "scan user:7 -o jsonl --limit 1",
    "export users.jsonl.zst",
    "table temp",
    "health",
    "doctor",
)


def main() -> None:
    """Run the commands and write the picture."""
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="standard")
    with onebox_process("--port", "34601", "--table", "temp:4") as (metas, _), tempfile.TemporaryDirectory() as folder:
        url = f"pegasus://{metas[0]}/temp"
        environment = {**os.environ, "PEGASUS_URL": url, "PYTHONPATH": str(ROOT)}
        for line in SESSION:
            console.print(Text(f"$ pegasus-green {line}", style="bold cyan"))
            command = f"{sys.executable} -m pegasus_green {line} --color always"
            done = subprocess.run(
                ["bash", "-c", command + " 2>&1"],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            console.print(Text.from_ansi(done.stdout))
            console.print()
    # Without the web fonts of rich.
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(console.export_svg(title="pegasus-green", code_format=form))


if __name__ == "__main__":
    main()
