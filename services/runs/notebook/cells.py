"""The notebook itself: a document of Jupyter's format 4.5, made of plain text.

https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import json
from typing import Any

_TITLE = """# Run {run}

Training `{model}` on `{data}` for hybrid-tui.

1. Choose the hardware: *Runtime → Change runtime type* (on Kaggle: *Session options → Accelerator*).
2. *Runtime → Run all*, and agree to the mounting of Google Drive when Colab asks.
3. Leave the tab open. Your box follows the run through the store and fetches the result.

Was the machine taken away? Open the notebook again and *Run all*: it goes on from the last checkpoint.
"""

_PARAMETERS = """# Where the store is mounted on this machine: the folder that holds results/runs.
STORE = {store!r}
RUN = {run!r}
WORK = ""         # where to compute; empty: a folder on the machine's own disk
INSTALL = True    # install Python packages that are missing or too old
RELEASE = False   # give the Colab machine back at the end, so that it costs no more
"""

_MOUNT = """import glob, os, sys, tempfile

STORE = os.environ.get("HYBRID_STORE", STORE)
try:
    from google.colab import drive
except ImportError:
    drive = None
if drive is not None and STORE.startswith("/content/drive/") and not os.path.isdir("/content/drive/MyDrive"):
    drive.mount("/content/drive")
place = os.path.join(STORE, "results", "runs", RUN)
if not os.path.exists(os.path.join(place, "job.json")):
    tops = ("/content/drive/MyDrive", "/content/drive/Shareddrives", "/content/drive/.shortcut-targets-by-id")
    depths = ((), ("*",), ("*", "*"))
    ways = [os.path.join(top, *deep, "results", "runs", RUN, "job.json") for top in tops for deep in depths]
    found = [way for pattern in ways for way in glob.glob(pattern)]
    place = os.path.dirname(found[0]) if found else place
if not os.path.exists(os.path.join(place, "job.json")):
    raise SystemExit("There is no run " + RUN + " in " + STORE + ". Set STORE to the folder that holds results/runs; "
                     "a mount may also be some minutes late: run this cell again.")
top = next((p for p in ("/content", "/kaggle/working") if os.path.isdir(p) and os.access(p, os.W_OK)), "")
WORK = os.environ.get("HYBRID_WORK", WORK) or os.path.join(top or tempfile.gettempdir(), "hybrid", RUN)
os.makedirs(WORK, exist_ok=True)
print("run", place)
print("work", WORK)
"""

_PREPARE = """import hashlib, importlib.metadata, json, shutil, subprocess, time, zipfile

job = json.load(open(os.path.join(place, "job.json"), encoding="utf-8"))
archive = os.path.join(place, "in", "code.zip")
code = os.path.join(WORK, "code-" + job["code_sha256"][:12])
if not os.path.isdir(code):
    if hashlib.sha256(open(archive, "rb").read()).hexdigest() != job["code_sha256"]:
        raise SystemExit(archive + " is not what was sent; the mount may be late: run this cell again in a minute.")
    shutil.rmtree(code + ".new", ignore_errors=True)
    zipfile.ZipFile(archive).extractall(code + ".new")
    os.rename(code + ".new", code)

def number(version):
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())

missing = []
for name, least in job["packages"].items():
    try:
        if number(importlib.metadata.version(name)) < number(least):
            missing.append(name + ">=" + least)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name + ">=" + least)
if missing and INSTALL:
    print("installing", *missing)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing])
    if done.returncode != 0:
        raise SystemExit("pip could not install " + ", ".join(missing) + "; its words are above.")
elif missing:
    print("missing or too old:", *missing)
if shutil.which("nvidia-smi"):
    subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
else:
    print("no NVIDIA GPU: the run uses the processor")
"""

_RUN = """driver = subprocess.Popen(
    [sys.executable, "-u", "-m", "services.runs.notebook.driver", place, WORK], cwd=code, start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
try:
    for line in driver.stdout:
        print(line, end="", flush=True)
except KeyboardInterrupt:
    print("stopping after a checkpoint ...")
    driver.terminate()
    for line in driver.stdout:
        print(line, end="", flush=True)
ended = driver.wait()
if drive is not None and place.startswith("/content/drive/"):
    drive.flush_and_unmount()  # what is still on its way to Drive gets there
if drive is not None and RELEASE and ended == 0:
    from google.colab import runtime
    runtime.unassign()
if ended:
    raise SystemExit("The run has not succeeded here; the lines above say why.")
"""


def notebook(*, run: str, store: str, model: str, data: str) -> dict[str, Any]:
    """The document for ``run``, whose store is mounted at ``store``. ``model`` and ``data`` are names for people."""
    texts = {"run": run, "store": store}
    cells = [
        _cell("about", _TITLE.format(run=run, model=model.replace("`", ""), data=data.replace("`", ""))),
        _cell("parameters", _PARAMETERS.format(**texts), code=True, tags=["parameters"]),
        _cell("mount", _MOUNT, code=True),
        _cell("prepare", _PREPARE, code=True),
        _cell("run", _RUN, code=True),
    ]
    return {
        "cells": cells,
        "metadata": {
            "accelerator": "GPU",
            "colab": {"provenance": [], "name": f"{run}.ipynb"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def encode(document: dict[str, Any]) -> bytes:
    """The document as a file."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _cell(name: str, text: str, *, code: bool = False, tags: list[str] | None = None) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": "code" if code else "markdown",
        "id": name,
        "metadata": {"tags": tags} if tags else {},
        "source": text.splitlines(keepends=True),
    }
    return cell | {"execution_count": None, "outputs": []} if code else cell
