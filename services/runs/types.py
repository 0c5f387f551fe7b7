"""A run's spec, its events and its state.

A run's directory has the same layout on every target::

    spec.json  remote.json  events-NNNNNN.jsonl  log.txt  control/{cancel,checkpoint,…}  attempts/N/{lock,end.json}
    checkpoints/step-NNNNNN/  output/

``output/`` holds the finished adapter (PEFT's format), tokenizer, ``metadata.json`` and ``benchmark.json``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Phase = Literal[
    "queued", "provisioning", "preparing", "running", "stopping",
    "succeeded", "failed", "cancelled", "lost", "over-budget",
]  # fmt: skip
FINISHED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "lost", "over-budget"})
Link = Literal["live", "polling", "none"]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
Method = Literal["lora", "rslora", "dora", "qlora", "full"]
Head = Literal["generate", "classify"]
Device = Literal["auto", "cuda", "cpu", "mps"]
Choice = Literal["auto", "on", "off"]


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training run's settings. Lengths and batches are in tokens, times in seconds."""

    method: Annotated[
        Method,
        Meta(
            description="What is trained: lora, rslora (scale alpha / root of r), dora, qlora (4-bit base, CUDA only), "
            "or full (all weights)."
        ),
    ] = "lora"
    task: Annotated[
        Head, Meta(description="generate: the answer is written; classify: a new head names the label at once.")
    ] = "generate"
    r: Annotated[int, Meta(ge=1, le=512, description="Rank of the adapter.")] = 8
    alpha: Annotated[float, Meta(gt=0, description="Scale of the adapter: alpha / r.")] = 16.0
    dropout: Annotated[float, Meta(ge=0, lt=1, description="Dropout before the adapter.")] = 0.0
    lr: Annotated[float, Meta(gt=0, le=1, description="Peak learning rate.")] = 1.5e-3
    warmup: Annotated[float, Meta(ge=0, le=1, description="Share of the steps that warm up.")] = 0.1
    schedule: Annotated[
        Literal["one-cycle", "cosine", "linear", "constant"],
        Meta(description="Course of the learning rate: one-cycle, cosine, linear or constant."),
    ] = "one-cycle"
    clip: Annotated[float, Meta(gt=0, description="Largest norm of the gradient.")] = 1.0
    epochs: Annotated[float, Meta(gt=0, description="Passes over the training split.")] = 1.0
    max_steps: Annotated[int, Meta(ge=0, description="Stop after so many steps; 0 = by epochs.")] = 0
    max_seconds: Annotated[
        float, Meta(ge=0, description="Fit the number of steps to this time, by a measured probe; 0 = no limit.")
    ] = 0.0
    batch_rows: Annotated[
        int,
        Meta(ge=0, description="Most rows in a step; 0 = 16, for an encoder 64, on a GPU any number."),
    ] = 0
    batch_tokens: Annotated[int, Meta(ge=0, description="Most real tokens in a step; 0 = 2,048, on a GPU 16,384.")] = (
        2048
    )
    micro_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Most tokens computed at once; a step's gradient is summed over such parts. "
            "0 = as many as the memory takes, measured.",
        ),
    ] = 0
    checkpointing: Annotated[
        Choice,
        Meta(description="Compute layers again in the backward pass to save memory; auto: only if it's needed."),
    ] = "auto"
    compile: Annotated[
        Choice, Meta(description="Compile the fused kernels first; auto: for models and runs that are worth it.")
    ] = "auto"
    max_length: Annotated[int, Meta(ge=16, description="Longer rows are cut here, from the left of the text.")] = 512
    dtype: Annotated[
        Dtype, Meta(description="Precision of the model: bf16, fp16, fp32, or auto: what the device is fast in.")
    ] = "auto"
    device: Annotated[Device, Meta(description="Where to compute: cuda, mps, cpu, or auto.")] = "auto"
    processes: Annotated[
        int, Meta(ge=0, le=64, description="Processes that share each step; 0 = one for every GPU, else one.")
    ] = 0
    shard: Annotated[
        Choice,
        Meta(
            description="Split the model over the processes, for models that don't fit one GPU; auto: only then. Not "
            "for qlora or task=classify."
        ),
    ] = "auto"
    seed: Annotated[int, Meta(ge=0, description="Seed of the adapter's start, the order of rows and dropout.")] = 0
    checkpoint_seconds: Annotated[float, Meta(ge=1, description="A checkpoint at least this often.")] = 60.0
    keep_checkpoints: Annotated[
        int, Meta(ge=1, description="How many of the last checkpoints stay, beside the best.")
    ] = 2
    eval_steps: Annotated[int, Meta(ge=0, description="Validate every so many steps; 0 = not during the run.")] = 0
    val_rows: Annotated[int, Meta(ge=0, description="Validation rows to look at each time; 0 = all.")] = 256
    patience: Annotated[
        int,
        Meta(
            ge=0,
            description="Stop after so many validations without a lower loss, and take the best one; 0 = never.",
        ),
    ] = 0
    eval_rows: Annotated[int, Meta(ge=0, description="Test rows to evaluate at the end; 0 = all.")] = 0


TargetName = Literal["local", "colab", "notebook", "ray"]


class RunSpec(msgspec.Struct, frozen=True):
    """``spec.json``, frozen when the run is made. ``env_names`` names secrets; their values are never stored.

    ``command`` is run in ``cwd`` by the supervisor with HYBRID_RUN_DIR set. ``model`` is a resolved local path or a
    hub's id; ``model_label`` what the person asked for. ``data`` is the dataset's folder, ``data_sha256`` its digest.

    For a target other than "local", ``command`` is that target's agent and ``remote`` the trainer's command there
    (``{run}`` stands for the run's folder on that side, a first word ``python`` for its Python); ``options`` is what
    the target itself was asked for, by name. ``max_seconds`` and ``max_cost`` (units of Colab, or money) end the run as
    "over-budget", 0 is no limit; ``budget`` says where the limit comes from when it is more than that.
    ``grace_s`` is how long a cancelled command may take to stop. ``ceilings`` is what looks at the ceilings
    on costs of a run elsewhere: a command that this box's supervisor starts now and then.
    """

    v: int
    id: str
    kind: Literal["train"]
    target: TargetName
    command: tuple[str, ...]
    cwd: str
    config: TrainConfig
    model: str
    model_label: str
    data: str
    data_sha256: str
    seed: int
    created_at: float
    git_commit: str | None = None
    git_dirty: bool | None = None
    env_names: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    max_seconds: float = 0.0
    max_cost: float = 0.0
    budget: str = ""
    grace_s: float = 60.0
    ceilings: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True, gc=False):
    """One line of ``events-NNNNNN.jsonl``. (attempt, seq) is unique; seq counts from 1 without gaps in an attempt.

    ``t`` is Unix time in seconds (shown, never ordered by). ``data`` by ``ev``:

    - phase: phase, note, wants (a link at which a person must agree before the run can go on), link ("polling"
      when the events come late from now on)
    - metric: step, total_steps, split ("train", "val" or "test"), and any of loss, lr, grad_norm, tokens_s, tokens,
      epoch, eta_s, accuracy, macro_f1, rows, seconds; NaN and infinities are written as null
    - log: level ("info", "warning", "error"), text
    - hb: step, rss_bytes (the trainer and what it started), disk_free_bytes, gpu; of a run elsewhere those of that
      side, and agent_rss_bytes of its agent here
    - ckpt: path (relative to the run), step, bytes, sha256
    - cost: seconds, of (what the figures are of; each is the total of that so far), and where known units or money
      with currency, rate (an hour), balance, source ("account" or "settings"), dated (of the settings' table)
    - end: code, reason, phase, hint

    What a target's agent passed on also has ``origin``, e.g. "2:17": the remote attempt and its number there.

    The collector of reference cycles does not look at events, for what was read from JSON has none: of a long history
    it would otherwise make pauses of 60 ms.
    """

    v: int
    run: str
    attempt: int
    seq: int
    t: float
    ev: Literal["phase", "metric", "log", "hb", "ckpt", "cost", "end"]
    data: dict[str, Any] = {}


class Cost(msgspec.Struct, frozen=True):
    """What a run has used so far, all its attempts and machines together. ``rate`` is in units or money an hour, now.

    ``source`` tells where the rate is from: "account" (asked there), "settings" (a table, of the day ``dated``) or "".
    ``balance`` is what the account had left when it was asked last.
    """

    seconds: float = 0.0
    units: float | None = None
    money: float | None = None
    currency: str = ""
    rate: float | None = None
    balance: float | None = None
    source: str = ""
    dated: str = ""


class RunView(msgspec.Struct, frozen=True):
    """A run as a list or a screen shows it: a pure fold of its events plus whether its supervisor lives.

    Times are Unix seconds; ``started_at`` and ``ended_at`` are those of the latest attempt. ``metrics`` has the latest
    value of each training metric, those of the split "val" as ``val_<name>``; ``results`` the figures of the held-out
    evaluation (accuracy, macro_f1, rows); ``problems`` names damaged lines, by file and line number; ``note`` is what
    the run is busy with; ``bytes`` what its folder takes on the disk. ``machine`` names where it runs elsewhere, and
    ``unattached`` that nothing here follows it though it may go on there, and cost: ``train.resume`` reattaches.
    ``wants`` is a link at which a person must agree before the run goes on (then ``train.consent``).
    """

    id: str
    phase: Phase
    link: Link
    attempt: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    model: str
    data: str
    step: int
    total_steps: int | None
    eta_s: float | None
    metrics: dict[str, float | None]
    results: dict[str, float | None]
    rss_bytes: int | None
    last_checkpoint: str | None
    reason: str
    path: str
    bytes: int = 0
    problems: tuple[str, ...] = ()
    hint: str = ""
    note: str = ""
    last_event_at: float | None = None
    target: str = "local"
    machine: str = ""
    unattached: bool = False
    wants: str = ""
    cost: Cost = Cost()


class Runs(msgspec.Struct, frozen=True):
    """The runs of a workspace, newest first."""

    runs: tuple[RunView, ...]


class Deleted(msgspec.Struct, frozen=True):
    """What ``train.delete`` removed."""

    id: str
    freed_bytes: int
