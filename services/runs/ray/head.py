"""The job itself, on the cluster's head: ``python -m services.runs.ray.head`` in the unpacked parcel.

It asks Ray for the nodes, starts the run on them, and prints what happens as lines ``@hybrid {…}``: each event with
its number, each checkpoint and the result with the sha256 of their files, which it keeps in ``folder`` for the box.
SIGTERM (the job is stopped) asks the run for a checkpoint and an end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from services.runs.notebook import layout, mirror
from services.runs.ray.node import CODE, Node

MARK = "@hybrid "
EVENTS = "events-n{}.jsonl"
_TICK_S = 0.3
_SAY_S = 30.0  # between two words on waiting for room
_KEPT = 3  # checkpoints


class Head:
    """One job: the start ``number`` of a run."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.number = job, int(job["number"])
        self.place = Path(job["folder"]) / job["run"]
        self.nodes: list[Any] = []
        self.group: Any = None
        self.stopping = False
        self.told_stop = False
        self.end = False

    def run(self) -> int:
        """Until the run has ended; 0 if it did so in order."""
        import ray

        self.place.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            (self.place / "checkpoint").unlink()
        ray.init(log_to_driver=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)  # after it: Ray puts a handler of its own there
        try:
            if not self._room(ray):
                return 1
            self._start(ray)
            self._follow(ray)
        except ray.exceptions.RayError as error:
            say(fault=f"A node of the run is gone: {str(error).strip().splitlines()[0][:300]}")
            return 1
        finally:
            with contextlib.suppress(Exception):
                ray.get([node.end.remote() for node in self.nodes], timeout=20)
        return 0 if self.end else 1

    def _room(self, ray: Any) -> bool:
        """Get the nodes; False when the job is stopped before there was room."""
        job = self.job
        self.processes = max(1, int(job["gpus"]))
        bundle = {"CPU": float(job["cpus"]) * self.processes, **({"GPU": job["gpus"]} if job["gpus"] else {})}
        strategy = "STRICT_SPREAD" if job["nodes"] > 1 else "PACK"
        self.group = ray.util.placement_group([bundle] * int(job["nodes"]), strategy=strategy)
        said = 0.0
        while not self.group.wait(1):
            if self.stopping:
                say(fault="Stopped before the cluster had room for it.", phase="cancelled")
                return False
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                say(wait=f"waiting for room on the cluster: {job['nodes']} x {bundle}")
        return True

    def _start(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Placed

        job = self.job
        actor = ray.remote(Node)
        for index in range(int(job["nodes"])):
            placed = Placed(self.group, placement_group_bundle_index=index)
            options = {"num_cpus": float(job["cpus"]) * self.processes, "num_gpus": int(job["gpus"])}
            made = actor.options(scheduling_strategy=placed, max_restarts=0, **options)
            self.nodes.append(made.remote(job["work"], job["run"], self.number, index))
        host, port = ray.get(self.nodes[0].address.remote())
        world = self.processes * len(self.nodes)
        name, files = self._newest()
        if files:
            say(wait=f"going on from checkpoint {name}")
        kept = ray.put(files)
        starts = []
        for index, node in enumerate(self.nodes):
            group = [str(index * self.processes), str(self.processes), str(world), host, str(port)]
            starts.append(node.start.remote(job["spec"], job["command"], group if world > 1 else [], kept, name))
        ray.get(starts)

    def _newest(self) -> tuple[str, dict[str, bytes]]:
        """The last checkpoint, of those kept here and the one that came with the parcel."""
        here = mirror.newest_checkpoint(self.place)
        brought = sorted((CODE / "checkpoint").glob("step-*"))
        folder = here[0] if here else None
        name = str(here[1]["folder"]) if here else ""
        if brought and brought[-1].name > name:
            folder, name = brought[-1], brought[-1].name
        if folder is None:
            return "", {}
        return name, {path: (folder / path).read_bytes() for path in layout.manifest(folder)}

    def _follow(self, ray: Any) -> None:
        first, others = self.nodes[0], self.nodes[1:]
        with (self.place / EVENTS.format(self.number)).open("w", encoding="utf-8") as file:
            while True:
                lines, code = ray.get(first.look.remote())
                for line in lines:
                    self._event(ray, line, file)
                if code is not None and not lines:
                    break
                for node, (_, ended) in zip(others, ray.get([n.look.remote() for n in others]), strict=True):
                    if ended and not self.told_stop:
                        self.told_stop = True
                        last = ray.get(node.log.remote()).decode("utf-8", "replace").strip().splitlines()
                        say(warn=f"Another node's processes ended with code {ended}: {(last or [''])[-1][:300]}")
                        first.wish.remote("cancel")
                self._obey(first)
                time.sleep(_TICK_S)
        log = ray.get(first.log.remote())
        mirror.write(self.place / f"log-n{self.number}.txt", log)
        say(log={"path": f"log-n{self.number}.txt", "size": len(log), "sha256": hashlib.sha256(log).hexdigest()})

    def _event(self, ray: Any, line: str, file: Any) -> None:
        event = json.loads(line)
        if event["ev"] == "ckpt":
            name = layout.checkpoint_name(int(event["data"]["step"]), self.number)
            told = {key: event["data"].get(key) for key in ("step", "bytes", "sha256")}
            if self._keep(ray, str(event["data"]["path"]), f"{layout.CHECKPOINTS}/{name}", "ckpt", told):
                self._thin()
        if event["ev"] == "end":
            self.end = True
            if event["data"].get("phase") == "succeeded":
                self._keep(ray, "output", layout.output_name(self.number), "output", {})
        file.write(line + "\n")
        file.flush()
        say(event=event)

    def _keep(self, ray: Any, source: str, name: str, kind: str, told: dict[str, Any]) -> bool:
        """Bring a folder from the first node here, and say what it holds."""
        files: dict[str, bytes] = ray.get(self.nodes[0].take.remote(source))
        if not files:
            return False
        target = self.place / name
        for path, data in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(data)
        about = {**told, "number": self.number, "folder": Path(source).name, "files": layout.manifest(target)}
        mirror.write(target.with_name(f"{target.name}.json"), json.dumps(about).encode())
        say(**{kind: {**about, "name": name}})
        return True

    def _thin(self) -> None:
        whole = sorted((self.place / layout.CHECKPOINTS).glob("step-*.json"), key=lambda path: path.stat().st_mtime)
        for path in whole[:-_KEPT]:
            path.unlink()
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def _obey(self, first: Any) -> None:
        if self.stopping and not self.told_stop:
            self.told_stop = True
            first.wish.remote("cancel")
        asked = self.place / "checkpoint"
        if asked.exists():
            asked.unlink()
            first.wish.remote("checkpoint")

    def _on_sigterm(self, *_: object) -> None:
        self.stopping = True


def say(**told: Any) -> None:
    """One line for the box."""
    print(MARK + json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(Head(json.loads((CODE / "job.json").read_text(encoding="utf-8"))).run())
