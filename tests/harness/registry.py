# SPDX-License-Identifier: Apache-2.0
"""A docker-registry on a free loopback port, with a root of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Registry:
    """`docker-registry serve`; `host` is `localhost:<port>`. With `htpasswd` (a line of that file) it asks for Basic auth."""

    def __init__(self, *, htpasswd: str | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="wh-registry-", dir="/var/tmp"))
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        auth = ""
        if htpasswd:
            (self.root / "htpasswd").write_text(htpasswd + "\n")
            auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {self.root}/htpasswd\n"
        (self.root / "config.yml").write_text(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n"
            f"  filesystem:\n    rootdirectory: {self.root}/data\nhttp:\n  addr: 127.0.0.1:{self.port}\n{auth}"
        )
        self._log = (self.root / "log").open("wb")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(self.root / "config.yml")], stdout=self._log, stderr=self._log
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/", timeout=1):
                    return
            except urllib.error.HTTPError:
                return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError((self.root / "log").read_text()) from None
                time.sleep(0.01)
        raise RuntimeError("docker-registry did not answer within 10 s")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
        shutil.rmtree(self.root)
