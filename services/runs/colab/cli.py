"""Google's own Colab command line as a library: one method a command, its failures as typed errors.

The program (https://pypi.org/project/google-colab-cli) keeps its sign-in and its sessions itself; it is always called
as a child in a session of its own, without a terminal. What its exit codes don't tell is read from what it prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.errors import BadInput, HybridError
from services.settings import Colab

INSTALL = "It needs Python 3.12: uv tool install --python 3.12 google-colab-cli (or pipx), then sign in: colab usage."
CALL_S = 180.0  # a call that should take seconds
NEW_S = 900.0  # allocations may queue, and the program itself repeats them
_LEAVE_S = 60.0  # for a child that has nothing to do any more
_PIPE = asyncio.subprocess.PIPE


class CliError(HybridError):
    """A command of Colab's program failed; nothing more is known than what it said."""


class Denied(CliError):
    """The account may not have that accelerator."""


class TooMany(CliError):
    """The account has as many machines as it may, or a limit of use is reached."""


class Busy(CliError):
    """Colab did not answer as it should; asking again later may help."""


class SignIn(CliError):
    """The program is not signed in, or its sign-in was revoked."""


class Gone(CliError):
    """The session does not exist (any more)."""


class Missing(CliError):
    """The file does not exist on the machine."""


class Session(msgspec.Struct, frozen=True):
    """A machine of the account as ``colab sessions`` lists it; ``name`` is "?" where this program did not make it."""

    name: str
    endpoint: str
    hardware: str


class Usage(msgspec.Struct, frozen=True):
    """Compute units: what is left, what all machines use an hour, how many machines there are."""

    balance: float
    rate: float
    machines: int


class Said(msgspec.Struct, frozen=True):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed, without colours, empty lines and the frames of a trace (whose numbers mean nothing)."""
        lines = [_COLOUR.sub("", line).strip() for line in f"{self.out}\n{self.err}".splitlines()]
        return [line.removeprefix("[colab] ") for line in lines if line and line[0] not in "│╭╰"]

    @property
    def last(self) -> str:
        """The last line that says something."""
        return self.lines[-1] if self.lines else ""


_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_LINE = re.compile(r"^\[(?P<name>[^\]]+)\] (?P<endpoint>\S+) \| Hardware: (?P<hardware>\S+)", re.MULTILINE)
_FIGURE = {
    "balance": re.compile(r"Current balance: ([\d.]+)"),
    "rate": re.compile(r"Usage rate: ([\d.]+)"),
    "machines": re.compile(r"Active assignments: (\d+)"),
}


def find(settings: Colab) -> str:
    """Path of the program. Raises BadInput with how to install it."""
    tools = [Path.home() / ".local/bin", Path.home() / ".local/share/uv/tools/google-colab-cli/bin"]
    if settings.cli:
        found = shutil.which(str(Path(settings.cli).expanduser()))
        if found is None:
            raise BadInput(f"[colab] cli = '{settings.cli}' is not a program that can be run.", hint=INSTALL)
        return found
    found = shutil.which("colab") or next((p for t in tools if (p := shutil.which("colab", path=str(t)))), None)
    if found is None:
        raise BadInput("Colab's command line (google-colab-cli) is not installed.", hint=INSTALL)
    return found


class Cli:
    """Calls the program at ``path``. Every method may raise SignIn, Busy or CliError besides what it names."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._leaving: dict[asyncio.subprocess.Process, asyncio.Task[None]] = {}

    async def usage(self) -> Usage:
        """The account's compute units."""
        said = await self._call("usage")
        found = {key: pattern.search(said.out) for key, pattern in _FIGURE.items()}
        if said.code or not found["balance"] or not found["rate"]:
            raise _error("The account's compute units can't be read", said)
        return Usage(
            float(found["balance"][1]), float(found["rate"][1]), int(found["machines"][1]) if found["machines"] else 0
        )

    async def sessions(self) -> tuple[Session, ...]:
        """The account's machines, those of other programs and of browsers too."""
        said = await self._call("sessions")
        if said.code:
            raise _error("The account's machines can't be listed", said)
        return tuple(Session(m["name"], m["endpoint"], m["hardware"]) for m in _LINE.finditer(said.out))

    async def new(self, session: str, accelerator: str) -> None:
        """Get a machine; ``accelerator`` "none" for a CPU. Raises Denied, TooMany. Not to be interrupted: it bills."""
        words = () if accelerator == "none" else ("--gpu", accelerator)
        said = await self._call("new", "-s", session, *words, seconds=NEW_S)
        if said.code or "READY" not in said.out:
            raise _error(f"Colab gave no machine with {accelerator}", said)

    async def stop(self, session: str) -> None:
        """Give the machine back; fine when it is gone."""
        said = await self._call("stop", "-s", session)
        if said.code == 0 and ("terminated" in said.out or "not found" in said.out):
            return
        with contextlib.suppress(Gone):
            raise _error(f"The machine {session} can't be given back", said)

    async def release(self, endpoint: str, state: Path) -> None:
        """Give back a machine that this program has no session for; ``state`` is a file to make and remove."""
        entry = {"name": "release", "token": "", "url": "", "endpoint": endpoint}
        await asyncio.to_thread(state.write_bytes, msgspec.json.encode({"release": entry}))
        try:
            said = await self._call("--config", str(state), "stop", "-s", "release")
        finally:
            for path in state.parent.glob(f"{state.name}*"):
                path.unlink(missing_ok=True)
        if said.code or "terminated" not in said.out:
            raise _error(f"The machine {endpoint} can't be given back", said)

    async def upload(self, session: str, local: Path, remote: str) -> None:
        """Put a file on the machine; ``remote`` is a path below / without the leading slash."""
        said = await self._call("upload", "-s", session, str(local), remote, seconds=CALL_S * 3)
        if said.code:
            raise _error(f"{local.name} can't be brought to the machine", said)

    async def download(self, session: str, remote: str, local: Path) -> None:
        """Fetch a file from the machine. Raises Missing."""
        said = await self._call("download", "-s", session, remote, str(local), seconds=CALL_S * 3)
        if said.code:
            raise _error(f"{remote} can't be fetched", said)

    async def install(self, session: str, packages: Sequence[str]) -> str:
        """Install packages there; what it printed, since its exit code tells nothing."""
        said = await self._call("install", "-s", session, *packages, seconds=NEW_S)
        if said.code:
            raise _error("The packages can't be installed there", said)
        return f"{said.out}\n{said.err}"

    async def execute(self, session: str, code: str, mark: str, seconds: float = CALL_S) -> str:
        """Run ``code`` as a cell; what follows ``mark`` at the beginning of a line that it prints, as soon as it does.

        Raises CliError when there is no such line: the exit code tells nothing of the cell.
        """
        child = await self._begin(
            "exec", "-s", session, "--timeout", str(int(seconds)), stdin=_PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert child.stdin is not None and child.stdout is not None
        printed = b""
        try:
            async with asyncio.timeout(seconds + 30):
                child.stdin.write(code.encode())
                child.stdin.close()
                async for line in child.stdout:
                    if line.startswith(mark.encode()):
                        self.leave(child)
                        return line.decode("utf-8", "replace").removeprefix(mark)
                    printed += line
                await child.wait()
        except TimeoutError:
            raise Busy(f"colab exec did not answer within {seconds + 30:.0f} s.") from None
        finally:
            if child not in self._leaving:
                await _end(child)
        said = Said(child.returncode or 0, printed.decode("utf-8", "replace"), "")
        if said.code:
            raise _error("Nothing can be run on the machine", said)
        raise CliError(f"The machine did not answer: {said.last[:300] or 'nothing was printed'}.")

    async def start(self, session: str, cell: Path) -> asyncio.subprocess.Process:
        """Run the file ``cell`` as a cell; the child's stdout is what it prints. Killing it doesn't stop the cell."""
        return await self._begin(
            "exec", "-s", session, "-f", str(cell), "--timeout", "9999999", stderr=asyncio.subprocess.STDOUT
        )

    async def mount(self, session: str) -> asyncio.subprocess.Process:
        """Start mounting Google Drive at /content/drive; it may print a link and wait for a line on its stdin."""
        return await self._begin("drivemount", "-s", session, stdin=_PIPE, stderr=asyncio.subprocess.STDOUT)

    def leave(self, child: asyncio.subprocess.Process) -> None:
        """Let a child that has said all we need end by itself.

        Once a cell has ended the program may wait 10 s for a thread of its own before it exits, while the machine
        bills. It isn't killed at once, because it may be writing what it knows of its sessions.
        """

        async def end() -> None:
            try:
                await asyncio.wait_for(child.communicate(), _LEAVE_S)
            except TimeoutError:
                pass
            finally:  # also when this program ends meanwhile
                await _end(child)

        self._leaving[child] = task = asyncio.ensure_future(end())
        task.add_done_callback(lambda _: self._leaving.pop(child, None))

    async def _call(self, *words: str, seconds: float = CALL_S) -> Said:
        child = await self._begin(*words, stderr=_PIPE)
        try:
            out, err = await asyncio.wait_for(child.communicate(), seconds)
        except TimeoutError:
            raise Busy(f"colab {words[0]} did not answer within {seconds:.0f} s.") from None
        finally:
            await _end(child)
        return Said(child.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    async def _begin(
        self, *words: str, stderr: int, stdin: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                self.path, *words, stdin=stdin, stdout=_PIPE, stderr=stderr, start_new_session=True,
                preexec_fn=_tie(), env=_environment(), limit=1 << 24,
            )  # fmt: skip
        except OSError as error:
            raise BadInput(f"{self.path} can't be run ({error.strerror}).", hint=INSTALL) from None


def _environment() -> dict[str, str]:
    """Ours, without what is meant for our own Python, and so that no line is wrapped, coloured or kept back."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "COLUMNS": "2000", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def kill(child: asyncio.subprocess.Process) -> None:
    """End a child with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        kill(child)
        await child.wait()


def _tie() -> Callable[[], object] | None:
    """What the child does before it becomes the program: arrange to die with us (Linux)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return (lambda: libc.prctl(1, int(signal.SIGKILL), 0, 0, 0)) if libc is not None else None


_KINDS: tuple[tuple[str, type[CliError], str], ...] = (
    (r"Backend rejected accelerator", Denied, "Your account may not have it; [colab] fallbacks names what to take."),
    (r"Allocation refused", TooMany, "train.sessions shows the machines of the account; train.release frees one."),
    (
        r"invalid_grant|RefreshError|authorization code|EOFError|Unauthorized|\b401\b",
        SignIn,
        "Sign in again: colab usage",
    ),
    (r"Session '[^']*' not found|appears to be lost", Gone, ""),
    (r"File or directory not found|\b404\b", Missing, ""),
    (r"\b(429|500|502|503|504)\b|Service Unavailable|Gateway|Max retries|Connection|Timeout|timed out", Busy, ""),
)


def _error(what: str, said: Said) -> CliError:
    """``said`` as the error that it is."""
    text = "\n".join(said.lines)
    for pattern, kind, hint in _KINDS:
        if re.search(pattern, text):
            if kind is SignIn:
                return kind(f"{what}: Colab's command line is not signed in any more.", hint=hint)
            return kind(f"{what}: {said.last[:300].rstrip('.')}.", hint=hint)
    return CliError(f"{what}: {said.last[:300].rstrip('.') or f'exit code {said.code}'}.")
