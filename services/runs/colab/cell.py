"""The cells that are run on the machine, as text. They keep to the standard library and to what is in them."""

from __future__ import annotations

import json
from typing import Any

from services.runs.colab.driver import MARK, RELEASE

ROOT = "/content/hybrid"


def folder(run: str) -> str:
    """The run's folder on the machine."""
    return f"{ROOT}/{run}"


def look(run: str, names: tuple[str, ...]) -> str:
    """Make the run's folder; say what the machine is and which versions of the packages ``names`` it has."""
    return f"""
import importlib.metadata, json, os, shutil, subprocess, sys
os.makedirs({folder(run) + "/in"!r}, exist_ok=True)
os.makedirs({folder(run) + "/control"!r}, exist_ok=True)
versions = {{}}
for name in {list(names)!r}:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
gpus = []
if shutil.which("nvidia-smi"):
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    gpus = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
free = shutil.disk_usage("/content").free
print({MARK!r} + json.dumps({{"python": sys.version.split()[0], "gpus": gpus, "free": free, "versions": versions}}))
"""


def start(run: str, parts: list[dict[str, Any]]) -> str:
    """Verify and unpack what was brought, run the driver until it ends, give the machine back if it says so."""
    return f"""
import hashlib, json, os, subprocess, sys, tarfile
run = {folder(run)!r}

def unpack():
    if os.path.exists(run + "/driver.json"):
        return ""
    with open(run + "/in/whole.tar", "wb") as whole:
        for part in json.loads({json.dumps(parts)!r}):
            try:
                data = open(run + "/in/" + part["name"], "rb").read()
            except OSError:
                return part["name"] + " has not arrived"
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                return part["name"] + " arrived damaged"
            whole.write(data)
            os.unlink(run + "/in/" + part["name"])
    with tarfile.open(run + "/in/whole.tar") as tar:
        tar.extractall(run + "/new")
    os.unlink(run + "/in/whole.tar")
    for name in sorted(os.listdir(run + "/new"), key=lambda name: name == "driver.json"):
        os.rename(run + "/new/" + name, run + "/" + name)
    return ""

fault = unpack()
if fault:
    print({MARK!r} + json.dumps({{"fault": fault}}), flush=True)
else:
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "services.runs.colab.driver", run], cwd=run + "/code", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in child.stdout:
        print(line.decode("utf-8", "replace"), end="", flush=True)
    if child.wait() == {RELEASE}:
        from google.colab import runtime
        runtime.unassign()
    elif child.returncode != 3:
        print({MARK!r} + json.dumps({{"fault": "the driver ended with code " + str(child.returncode)}}), flush=True)
"""
