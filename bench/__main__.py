# SPDX-License-Identifier: Apache-2.0
"""Run the benchmark table: every engine in turn for each repetition, medians, and ratios to wharfie.

    sudo .venv/bin/python3 -m bench [--only run,exec,…] [--peers wharfie,docker,…] [--runs 7] [--stopped 1000] [--write FILE]

Everything stands on its default (user namespace, seccomp, log kept). Peers are Debian's packages. Times are of whole
commands, from exec to exit.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests"))

from bench import peers as p
from harness import host, images
from harness.registry import Registry

Row = tuple[str, dict[str, float]]
DEVNULL = subprocess.DEVNULL


def timed(argv: list[str], *, check: bool = True) -> float:
    start = time.perf_counter()
    code = subprocess.run(argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL).returncode
    elapsed = time.perf_counter() - start
    if check and code:
        shown = subprocess.run(argv, stdin=DEVNULL, capture_output=True, text=True)
        raise RuntimeError(f"{argv}: exit {code}; again: {shown.returncode} {shown.stderr[-800:]}")
    return elapsed


class Bench:
    def __init__(
        self, base: Path, engines: list[p.Peer], bare: list[p.BareRuntime], registry: Registry, runs: int
    ) -> None:
        self.base, self.engines, self.bare, self.registry, self.runs = base, engines, bare, registry, runs
        self.counter = 0
        self.busybox = f"127.0.0.1:{registry.port}/busybox:latest"

    def name(self) -> str:
        self.counter += 1
        return f"b{self.counter}"

    def interleaved(
        self, peers: list[p.Peer], one: Callable[[p.Peer], float], runs: int | None = None
    ) -> dict[str, float]:
        times: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for repetition in range((runs or self.runs) + 1):
            for peer in peers:
                elapsed = one(peer)
                if repetition:
                    times[peer.name].append(elapsed)
        return {name: statistics.median(values) for name, values in times.items()}

    def case_run(self) -> list[Row]:
        peers: list[p.Peer] = [*self.engines, *self.bare]
        row = self.interleaved(peers, lambda e: timed(e.run(self.busybox, "true", name=self.name())), self.runs * 2)
        return [("`run --rm --net none busybox true`", row)]

    def case_exec(self) -> list[Row]:
        for e in self.engines:
            p.quiet(*e.detached(self.busybox, "sleep", "1000", name="execbox"))
        row = self.interleaved(list(self.engines), lambda e: timed(e.exec("execbox", "true")), self.runs * 2)
        for e in self.engines:
            p.quiet(*e.remove("execbox"))
        return [("`exec … true`", row)]

    def case_parallel(self) -> list[Row]:
        def twenty(e: p.Peer) -> float:
            start = time.perf_counter()
            running = [
                subprocess.Popen(
                    e.run(self.busybox, "true", name=self.name()), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
                )
                for _ in range(20)
            ]
            codes = [r.wait() for r in running]
            if any(codes):
                raise RuntimeError(f"{e.name}: parallel runs ended with {codes}")
            return time.perf_counter() - start

        return [("20 runs in parallel", self.interleaved(list(self.engines), twenty, 3))]

    def case_logs(self) -> list[Row]:
        line = "x" * 127
        command = ["sh", "-c", f"yes {line} | head -c 268435456"]
        engines = list(self.engines)
        write = self.interleaved(engines, lambda e: timed(e.run(self.busybox, *command, name=self.name())), 2)
        readers: list[p.Peer] = []
        for e in self.engines:
            if isinstance(e, p.DockerLike):
                timed(e.run(self.busybox, "sh", "-c", f"yes {line} | head -c 209715200", name="loud", rm=False))
                readers.append(e)
        read = self.interleaved(readers, lambda e: timed(e.logs("loud") or []), 1)
        for e in readers:
            p.quiet(*e.remove("loud"))
        return [("256 MB of lines through `run`, log kept (ctr keeps none)", write), ("`logs` of 200 MB", read)]

    def case_pull(self) -> list[Row]:
        rows = []
        for title, image in self.pull_images():
            ref = image.push(f"127.0.0.1:{self.registry.port}", title.split()[0].lower())

            def once(e: p.Peer, ref: str = ref) -> float:
                subprocess.run(e.remove_image(ref), capture_output=True)
                e.wait_until_collected()
                subprocess.run(["sync"], check=True)
                return timed(e.pull(ref)) + timed(e.run(ref, "/bin/true", name=self.name()))

            rows.append((f"pull to first process, {title}", self.interleaved(list(self.engines), once, 2)))
            for e in self.engines:
                subprocess.run(e.remove_image(ref), capture_output=True)
        return rows

    @staticmethod
    def pull_images() -> list[tuple[str, images.Image]]:
        box = images.busybox_tar()
        block = b"".join(f"some text of file {i:06d}\n".encode() * 40 for i in range(4))
        files = {f"data/{i // 200:03d}/{i % 200:03d}.txt": block[: 400 + i % 3000] for i in range(50_000)}
        layers = [box] + [
            images.make_tar(
                {f"l{n}/{i}": f"{n} {i}".encode() * 500 for i in range(200)} | {f"l{n}/big": bytes(range(256)) * 8192}
            )
            for n in range(19)
        ]
        return [
            ("Debian image (128 MB tar)", images.debian()),
            ("Small-files image (50,000)", images.Image([box, images.make_tar(files)])),
            ("Twenty layers", images.Image(layers)),
        ]

    def case_ps(self, stopped: int) -> list[Row]:
        for e in self.engines:
            for i in range(stopped):
                p.quiet(*e.create(self.busybox, "true", name=f"s{i}"))
        return [
            (f"`ps -a` with {stopped} containers", self.interleaved(list(self.engines), lambda e: timed(e.ps_all())))
        ]

    def case_memory(self) -> list[Row]:
        time.sleep(2)
        idle = {e.name: p.daemon_pss_kib(e.daemon_pids()) / 1024 for e in self.engines if e.process}
        each: dict[str, float] = {}
        for e in self.engines:
            names = [self.name() for _ in range(5)]
            before = p.all_pids()
            for name in names:
                p.quiet(*e.detached(self.busybox, "sleep", "1000", name=name))
            time.sleep(1)
            supervisors = [pid for pid in p.all_pids() - before if p.command_name(pid) not in {"sleep", "init"}]
            each[e.name] = sum(p.private_kib(pid) for pid in supervisors) / 1024 / len(names)
            for name in names:
                p.quiet(*e.remove(name))
        return [("memory of the idle daemon, PSS, MB", idle), ("memory per running container, private, MB", each)]

    def case_busy(self) -> list[Row]:
        """`run` while another image is being pulled, beside the same without a pull."""
        ref = images.debian().push(f"127.0.0.1:{self.registry.port}", "busy")

        def during(e: p.Peer) -> float:
            subprocess.run(e.remove_image(ref), capture_output=True)
            e.wait_until_collected()
            pull = subprocess.Popen(e.pull(ref), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            time.sleep(0.1)
            times = []
            while pull.poll() is None:
                times.append(timed(e.run(self.busybox, "true", name=self.name())))
            return statistics.median(times) if times else float("nan")

        row = self.interleaved(list(self.engines), during, 2)
        for e in self.engines:
            subprocess.run(e.remove_image(ref), capture_output=True)
        return [("`run` while a Debian image is pulled", row)]


def table(rows: list[Row], order: list[str]) -> str:
    lines = ["| what | " + " | ".join(order) + " |", "| --- |" + " ---: |" * len(order)]
    for title, values in rows:
        own = values.get("wharfie")
        cells = []
        for name in order:
            value = values.get(name)
            if value is None:
                cells.append("–")
                continue
            unit = f"{value:.1f} MB" if title.startswith("memory") else f"{value * 1000:.0f} ms"
            ratio = "" if name == "wharfie" or not own else f" ({value / own:.1f}×)"
            cells.append(unit + ratio)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ps,run,exec,parallel,logs,pull,busy,memory")
    parser.add_argument("--peers", default="wharfie,docker,podman,ctr,runc,crun")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--stopped", type=int, default=1000)
    parser.add_argument("--dir", default="/var/tmp", help="file system under test")
    parser.add_argument("--write", help="also write the table to this file")
    options = parser.parse_args()
    chosen, only = options.peers.split(","), options.only.split(",")
    base = Path(tempfile.mkdtemp(prefix="wh-bench-", dir=options.dir))
    host.settle_cgroups()
    registry = Registry()
    engines: list[p.Peer] = [c(base) for c in (p.Wharfie, p.Docker, p.Podman, p.Ctr) if c.name in chosen]
    bare: list[p.BareRuntime] = [c(base) for c in (p.Runc, p.Crun) if c.name in chosen]
    rows: list[Row] = []
    try:
        images.busybox().push(f"127.0.0.1:{registry.port}", "busybox")
        bench = Bench(base, engines, bare, registry, options.runs)
        for b in bare:
            b.prepare(images.busybox_tar())
        for e in engines:
            e.start()
            p.quiet(*e.pull(bench.busybox))
        for case in only:
            print(f"bench: {case}", file=sys.stderr)
            rows += bench.case_ps(options.stopped) if case == "ps" else getattr(bench, f"case_{case}")()
            print(table(rows, chosen), file=sys.stderr)
    finally:
        for e in engines:
            e.stop()
        registry.close()
        p.remove_tree(base)
    head = f"{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, {shutil.os.cpu_count()} cores, Python {platform.python_version()}"  # type: ignore[attr-defined]
    text = f"{head}\n\n{table(rows, chosen)}\n"
    print(text)
    if options.write:
        Path(options.write).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
