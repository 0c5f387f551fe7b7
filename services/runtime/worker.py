"""The process that holds a model and answers: ``python -m services.runtime.worker``.

JSON lines on stdin and stdout, see ``services.inference.types``. It is a child for life: when its stdin closes, because
the parent closed it or died, it ends at once, whatever it was doing.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from services.errors import BadInput, HybridError
from services.inference.types import Reply, Request, Subject, no_chat

if TYPE_CHECKING:
    from services.runtime.classifier import Classifier
    from services.runtime.engine import Engine
    from services.runtime.tokenizer import Tokenizer

Say = Callable[[Reply], None]


class Channel:
    """The two pipes, taken away from everybody else: what a library prints goes to stderr, what it reads is empty."""

    def __init__(self) -> None:
        self._requests = os.fdopen(os.dup(0), "rb")
        self._replies = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        sys.stdout.flush()
        os.dup2(2, 1)

    def say(self, reply: Reply) -> None:
        """Write one reply; from any thread. A parent that is gone ends this process."""
        line = msgspec.json.encode(reply) + b"\n"
        with self._lock:
            try:
                self._replies.write(line)
                self._replies.flush()
            except (BrokenPipeError, ValueError):
                os._exit(0)

    def listen(self, work: queue.SimpleQueue[Request], cancelled: set[int]) -> None:
        """Sort the requests: cancel and ping are dealt with at once, the rest is queued. EOF ends the process."""
        decode = msgspec.json.Decoder(Request).decode
        for line in self._requests:
            try:
                request = decode(line)
            except msgspec.MsgspecError as error:
                self.say(Reply(0, "error", {"message": f"The request is not usable: {error}.", "exit_code": 2}))
                continue
            if request.op == "quit":
                break
            if request.op == "cancel":
                cancelled.add(request.target)
            elif request.op == "ping":
                self.say(Reply(request.id, "done", {"pid": os.getpid(), "rss_bytes": rss_bytes()}))
            else:
                work.put(request)
        os._exit(0)


class Holder:
    """The model in memory and the adapter it answers with, or a classifier; swapping adapters keeps the base."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._tokenizer: Tokenizer | None = None
        self._base: tuple[str, bool] | None = None
        self._adapter: tuple[str, tuple[int, ...]] | None = None
        self._classifier: Classifier | None = None
        self._classified: tuple[str, str, tuple[int, ...]] | None = None

    def get(self, subject: Subject, loading: Callable[[str, float], None]) -> tuple[Engine, Tokenizer]:
        """The engine, ready to answer as ``subject``; ``loading`` hears what took how many seconds.

        Raises BadInput or HybridError when the model or adapter is missing, damaged or they don't fit together.
        """
        from services.runtime.engine import open_engine
        from services.runtime.tokenizer import Tokenizer

        base = (subject.model, _needs_peft(subject.adapter))
        if self._engine is None or self._tokenizer is None or self._base != base:
            self.drop()
            begun = time.monotonic()
            loading(f"loading {Path(subject.model).name}", 0.0)
            self._engine = open_engine(subject.model, general=base[1])
            self._tokenizer = Tokenizer(self._engine.folder)
            self._base = base
            loading(f"loaded {Path(subject.model).name}", time.monotonic() - begun)
        adapter = None if subject.adapter is None else (subject.adapter, _stamp(Path(subject.adapter)))
        if adapter != self._adapter:
            begun = time.monotonic()
            try:
                self._engine.use(None if subject.adapter is None else Path(subject.adapter))
            except Exception:
                self.drop()  # which adapter is in the weights now is not certain
                raise
            self._adapter = adapter
            loading(f"switched to {subject.label}", time.monotonic() - begun)
        return self._engine, self._tokenizer

    def classifier(self, subject: Subject, loading: Callable[[str, float], None]) -> tuple[Classifier, Tokenizer]:
        """The classifier that ``subject`` is, ready to name labels; it takes the place of what was held.

        Raises BadInput when it has no head, BadInput or HybridError when something is missing, damaged or misfits.
        """
        from services.runtime.classifier import has_head, open_classifier
        from services.runtime.tokenizer import Tokenizer

        result = Path(subject.adapter or subject.model)
        if not has_head(result):
            raise BadInput(f"{subject.label} has no classification head.", hint="Train it with task=classify.")
        wanted = (subject.model, str(result), _stamp(result))
        if self._classifier is None or self._tokenizer is None or self._classified != wanted:
            self.drop()
            begun = time.monotonic()
            loading(f"loading {subject.label}", 0.0)
            classifier = open_classifier(subject.model, result)
            tokenizer = Tokenizer(classifier.folder)
            classifier.scores([[*tokenizer.prefix, tokenizer.eos_id]])  # what only the first call costs, paid here
            self._classifier, self._tokenizer, self._classified = classifier, tokenizer, wanted
            loading(f"loaded {subject.label}", time.monotonic() - begun)
        return self._classifier, self._tokenizer

    def drop(self) -> None:
        """Give the memory back."""
        import gc

        self._engine = self._tokenizer = self._base = self._adapter = None
        self._classifier = self._classified = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _needs_peft(adapter: str | None) -> bool:
    from services.runtime.adapters import is_plain_lora, read_adapter_config

    return adapter is not None and not is_plain_lora(read_adapter_config(Path(adapter)))


def _stamp(result: Path) -> tuple[int, ...]:
    """Changes when the result's files were written again in the same place."""
    return tuple(file.stat().st_mtime_ns for file in sorted(result.glob("*.safetensors")))


class Worker:
    """Works off the requests one by one. An error is a reply, never the end."""

    def __init__(self, say: Say) -> None:
        self.cancelled: set[int] = set()
        self.work: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._say = say
        self._holder = Holder()

    def run(self) -> None:
        """Until the listener ends the process."""
        while True:
            self.handle(self.work.get())

    def handle(self, request: Request) -> None:
        """Work off one request and say "done" or "error"."""
        try:
            if request.id in self.cancelled:
                done: dict[str, Any] = {"text": "", "stopped": True}
            else:
                done = self._operation(request)
            self._say(Reply(request.id, "done", {**done, "rss_bytes": rss_bytes()}))
        except Exception as error:  # whatever a library raises must not end the worker
            if _is_memory(error):
                self._holder.drop()
            if not isinstance(error, HybridError):
                traceback.print_exc()
            self._say(Reply(request.id, "error", _explain(error, request)))
        finally:
            self.cancelled.discard(request.id)

    def _operation(self, request: Request) -> dict[str, Any]:
        if request.op == "unload":
            self._holder.drop()
            return {}
        if request.subject is None:
            raise BadInput(f"The request '{request.op}' names no model.")
        if request.op == "load":
            return self._load(request.id, request.subject)
        if request.op == "evaluate":
            return self._evaluate(request, request.subject)
        if request.op == "classify" or request.subject.head:
            return self._classify(request, request.subject)
        return self._generate(request, request.subject)

    def _loading(self, id: int) -> Callable[[str, float], None]:
        return lambda stage, seconds: self._say(Reply(id, "loading", {"stage": stage, "seconds": seconds}))

    def _load(self, id: int, subject: Subject) -> dict[str, Any]:
        begun, say = time.monotonic(), self._loading(id)
        held = self._holder.classifier(subject, say)[0] if subject.head else self._holder.get(subject, say)[0]
        return {"seconds": time.monotonic() - begun, "dtype": str(held.dtype).removeprefix("torch.")}

    def _classify(self, request: Request, subject: Subject) -> dict[str, Any]:
        """A head's answer; a chat is refused before anything is loaded."""
        if request.messages:
            raise no_chat(subject)
        from services.runtime.classifier import ranked

        classifier, tokenizer = self._holder.classifier(subject, self._loading(request.id))
        begun = time.perf_counter()
        tokens, found = ranked(classifier, tokenizer, subject.prompt, request.text)
        label, probability = found[0]
        seconds = time.perf_counter() - begun
        return {"text": label, "probability": probability, "ranked": found, "tokens": tokens, "seconds": seconds}

    def _generate(self, request: Request, subject: Subject) -> dict[str, Any]:
        from services.runtime import generate

        engine, tokenizer = self._holder.get(subject, self._loading(request.id))
        ids = generate.prompt_ids(tokenizer, subject, request.text, request.messages)
        sampling = generate.Sampling(request.max_tokens, request.temperature, request.top_p, request.seed, request.stop)

        def emit(piece: str) -> None:
            self._say(Reply(request.id, "token", {"text": piece}))

        def stopped() -> bool:
            return request.id in self.cancelled

        if request.constrain and subject.labels:
            answer = generate.choose(engine, tokenizer, ids, subject.labels, sampling, stopped)
            if answer.text:
                emit(answer.text)
        else:
            answer = generate.generate(engine, tokenizer, ids, sampling, emit, stopped, trim=not request.messages)
        return dataclasses.asdict(answer)

    def _evaluate(self, request: Request, subject: Subject) -> dict[str, Any]:
        """Opens the model in its own way, for many rows at a time; ours makes room for it first."""
        from services.runtime.evaluation import evaluate_dataset

        self._holder.drop()
        self._say(Reply(request.id, "loading", {"stage": f"loading {subject.label}", "seconds": 0.0}))

        def progress(done: int, total: int, accuracy: float) -> None:
            self._say(Reply(request.id, "progress", {"done": done, "total": total, "accuracy": accuracy}))

        found = evaluate_dataset(
            subject.model,
            None if subject.adapter is None else Path(subject.adapter),
            Path(request.data),
            split=request.split,
            limit=request.limit,
            progress=progress,
            stopped=lambda: request.id in self.cancelled,
        )
        return {**msgspec.structs.asdict(found), "text": ""}


def rss_bytes() -> int:
    """Resident bytes of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _is_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()  # the CPU's allocator raises a plain RuntimeError
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _explain(error: Exception, request: Request) -> dict[str, Any]:
    if isinstance(error, HybridError):
        return {"message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    name = request.subject.label if request.subject else "the model"
    if _is_memory(error):
        return {
            "message": f"There is not enough memory for {name}.",
            "hint": "Close other programs, shorten the text, or take a smaller model.",
        }
    first = (str(error).strip().splitlines() or [""])[0]
    return {"message": f"Answering as {name} failed: {type(error).__name__}: {first}.", "hint": ""}


def main() -> None:
    """Entry point; returns only through the listener's exit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    channel = Channel()
    worker = Worker(channel.say)
    listener = threading.Thread(target=channel.listen, args=(worker.work, worker.cancelled), daemon=True)
    listener.start()
    import torch

    from services.runtime.loading import use_threads

    channel.say(Reply(0, "ready", {"pid": os.getpid(), "torch": str(torch.__version__), "threads": use_threads()}))
    worker.run()


if __name__ == "__main__":
    main()
