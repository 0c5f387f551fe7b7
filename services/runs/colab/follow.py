"""Following a run on its machine: its events and log come here, requests go there."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from services.runs.colab import budget, cell
from services.runs.colab.cli import Cli, CliError, Gone, Missing, SignIn
from services.runs.colab.driver import MARK
from services.runs.colab.ends import Lost, NotStarted, check_machine
from services.runs.colab.fetching import Fetcher
from services.runs.colab.meter import Meter
from services.runs.emit import Emitter
from services.runs.feed import NOTHING_YET, Feed, passed_on
from services.runs.remote import Remote
from services.runs.types import RunSpec

_POLL_S = 10.0  # without a stream
_SILENT_BEATS = 3  # a stream silent for so many heartbeats is not believed any more
_COST_S = 60.0
_ABSENT_POLLS = 4  # a driver that has not shown itself after so many looks is not there


class Follower:
    """Follows the run on ``remote`` until it has ended and all it made is here."""

    def __init__(
        self, run_dir: Path, spec: RunSpec, cli: Cli, emit: Emitter, remote: Remote, meter: Meter,
    ) -> None:  # fmt: skip
        self.run_dir, self.spec, self.cli, self.emit, self.remote, self.meter = run_dir, spec, cli, emit, remote, meter
        self.there = cell.folder(spec.id).lstrip("/")
        self.feed = Feed(emit, remote.number, passed_on(run_dir).get(remote.number, NOTHING_YET))
        self.units_before = budget.spent_elsewhere(run_dir, remote.name)[1]
        self.poll_s = float(spec.options.get("poll_s", _POLL_S))
        self.beat_s = float(spec.options.get("beat_s", 10.0))
        self.fetcher = Fetcher(run_dir, spec, cli, emit, remote)
        self.log_at = -1
        self.end: dict[str, Any] | None = None
        self.fault = ""
        self.started = False
        self.absent = 0
        self.heard_at = time.monotonic()
        self.polled_at = self.cost_at = float("-inf")
        self.cancelled = False
        self.spent_all = False
        self.last_said = ""

    async def follow(self, stream: asyncio.subprocess.Process | None) -> dict[str, Any]:
        """The run's end, once its checkpoints and result are here. Raises Lost, NotStarted."""
        self.heard_at = time.monotonic()
        listening = asyncio.ensure_future(self._listen(stream)) if stream is not None else None
        fetching: asyncio.Task[None] | None = None
        try:
            while True:
                live = listening is not None and not listening.done()
                silent = time.monotonic() - self.heard_at > _SILENT_BEATS * self.beat_s
                self._say_link("" if live and not silent else "polling")
                await self._pass_requests()
                if self.feed.missing or ((not live or silent) and time.monotonic() - self.polled_at > self.poll_s):
                    await self._poll(expected=not live)
                if time.monotonic() - self.cost_at > _COST_S:
                    await self.tell_cost()
                if fetching is not None and fetching.done():
                    fetching.result()
                    fetching = None
                if self.fault:
                    raise NotStarted(self.fault)
                name = self.fetcher.next_parcel()
                if fetching is None and name:
                    fetching = asyncio.ensure_future(self.fetcher.fetch(name))
                elif fetching is None and self.end is not None and self.feed.end is not None:
                    return self.end
                await asyncio.sleep(0.1)
        finally:
            for task in (listening, fetching):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def _listen(self, stream: asyncio.subprocess.Process) -> None:
        """Take the cell's lines as they come; some may be lost."""
        assert stream.stdout is not None
        while True:
            try:
                line = await stream.stdout.readline()
            except ValueError:  # longer than any news: the files have it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip("\n")
            if not text.startswith(MARK):
                self.last_said = text.strip() or self.last_said
                continue
            try:
                news = json.loads(text[len(MARK) :])
            except ValueError:
                continue
            self.heard_at = time.monotonic()
            await self._take(news)

    async def _take(self, news: dict[str, Any]) -> None:
        if "fault" in news:
            self.fault = str(news["fault"])
            return
        if news.get("number") != self.remote.number:
            return
        self.started, self.absent = True, 0
        self.feed.take(news.get("events") or ())
        if int(news.get("seq") or 0) > self.feed.have and not self.feed.missing:
            self.polled_at = float("-inf")  # a line was lost
            self.heard_at = float("-inf")
        self._take_log(news.get("log") or {})
        self.end = news.get("end") or self.end
        self.fetcher.told(news.get("parcels"), ended=self.end is not None)

    def _take_log(self, log: dict[str, Any]) -> None:
        """Print what the trainer there printed, for log.txt here; what the stream lost may be missing."""
        text, at = str(log.get("text") or ""), int(log.get("at") or 0)
        data = text.encode()
        if not data or at + len(data) <= self.log_at:
            return
        new = data[max(0, self.log_at - at) :] if self.log_at > at else data
        self.log_at = at + len(data)
        print(new.decode("utf-8", "replace"), end="", flush=True)

    async def _poll(self, *, expected: bool) -> None:
        """Fetch news.json, and the events' files when it does not reach back far enough.

        ``expected``: no cell of ours is starting the run, so that its news should be there.
        """
        self.polled_at = time.monotonic()
        try:
            news = json.loads(await self._read("outbox/news.json"))
            await self._take(news)
            if self.feed.have < int(news["seq"]):
                await self._fetch_events(str(news["file"]))
        except Missing:
            self.absent += expected
            if self.absent >= _ABSENT_POLLS and not self.started:
                raise NotStarted(self.last_said) from None
        except Gone as error:
            raise Lost(str(error)) from None
        except SignIn as error:
            self.emit.log("warning", f"{error} The run goes on there. {error.hint}")
        except CliError as error:
            await check_machine(self.cli, self.remote, str(error))

    async def _fetch_events(self, last: str) -> None:
        for number in range(1, int(last[7:-6]) + 1):
            lines = (await self._read(f"events-{number:06d}.jsonl")).splitlines()
            self.feed.take(event for line in lines if (event := _object(line)))
        if self.feed.missing:
            self.emit.log("warning", f"{self.feed.give_up()} events are missing in the machine's files too.")

    async def _read(self, name: str) -> str:
        local = self.run_dir / ".fetched"
        try:
            await self.cli.download(self.remote.name, f"{self.there}/{name}", local)
            return local.read_text(encoding="utf-8", errors="replace")
        finally:
            local.unlink(missing_ok=True)

    async def _pass_requests(self) -> None:
        """Cancel and checkpoint-now become files there; a budget in units that is used up, a cancel."""
        wanted = ["checkpoint"] if self.emit.asked("checkpoint") else []
        if self.spec.max_cost and not self.spent_all and self.end is None:
            self.spent_all = self.over_units()
        if (self.emit.cancelled() or self.spent_all) and not self.cancelled and self.end is None:
            wanted.append("cancel")
        for name in wanted:
            empty = self.run_dir / f".{name}"
            empty.touch()
            try:
                await self.cli.upload(self.remote.name, empty, f"{self.there}/control/{name}")
                self.cancelled |= name == "cancel"
            except CliError as error:
                await check_machine(self.cli, self.remote, str(error))
                self.emit.log("warning", f"The request '{name}' did not arrive: {error}")
                await asyncio.sleep(1.0)
            finally:
                empty.unlink(missing_ok=True)

    def over_units(self) -> bool:
        """Whether the budget in units is used up, as the account counts: its rate may have changed."""
        return self.meter.rate is not None and self.units_before + self.meter.now() >= self.spec.max_cost

    async def tell_cost(self, *, ask: bool = True) -> None:
        """Emit a cost event, after asking the account."""
        self.cost_at = time.monotonic()
        if ask:
            await self.meter.ask(self.cli)
        told = self.meter.told(self.remote.name)
        self.emit.cost(told.pop("seconds"), **told)

    def _say_link(self, link: str) -> None:
        if link != self.feed.link:
            self.feed.link = link
            note = "the machine is asked now and then" if link else ""
            self.emit.phase("stopping" if self.cancelled else self.feed.phase, note, link=link)


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("seq"), int) and "ev" in value else None
