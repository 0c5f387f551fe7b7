"""``hybrid.toml``: typed, every key documented, unknown keys named with the nearest known one.

Order: built-in defaults, then the file, then environment variables ``HYBRID_<SECTION>_<KEY>``.
A bad file never stops the program: the value falls back to its default and a warning says so.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from services.errors import nearest


class Disk(msgspec.Struct, frozen=True):
    """Budgets of the box's disk, in decimal gigabytes."""

    budget_gb: Annotated[float, Meta(gt=0, description="How much of the disk may be used in all.")] = 15.0
    min_free_gb: Annotated[float, Meta(ge=0, description="How much must stay free.")] = 5.0
    caches_gb: Annotated[float, Meta(ge=0, description="How much all known caches may take together.")] = 3.0
    repo_mb: Annotated[float, Meta(gt=0, description="How much the .git folder may take, in megabytes.")] = 100.0
    repo_file_mb: Annotated[
        float, Meta(gt=0, description="Files in git larger than this, in megabytes, are reported.")
    ] = 10.0
    repo_allow: Annotated[
        str, Meta(description='Files that may be in git all the same, e.g. "tests/*.bin docs/*.npz".')
    ] = ""


class Upkeep(msgspec.Struct, frozen=True):
    """Recurrent tasks of the team."""

    log: Annotated[
        str, Meta(description="Where the dates are kept; a file in git or on a mounted Drive is shared by the team.")
    ] = ".hybrid/storage/upkeep.jsonl"
    forecast_days: Annotated[float, Meta(ge=1, description="How many days back the disk's forecast looks.")] = 14.0
    warn_days: Annotated[float, Meta(ge=0, description="A disk that is full within this many days is an alert.")] = 14.0
    tasks: Annotated[
        dict[str, str],
        Meta(description='Own tasks, e.g. {"backup" = "weekly: Copy the registry @registry", "notebooks" = "never"}.'),
    ] = {}


class Cleaning(msgspec.Struct, frozen=True):
    """How clean-ups treat what they are given."""

    trash_days: Annotated[
        float, Meta(ge=0, description="The next clean-up deletes for good what has lain in the trash for so many days.")
    ] = 7.0
    exclude: Annotated[
        tuple[str, ...], Meta(description='What holds such a name, or path with a /, stays: ["*.gguf", "~/papers/*"].')
    ] = ()
    keep: Annotated[
        tuple[str, ...], Meta(description='Ids of items that stay, * for any text: ["huggingface:*banking*"].')
    ] = ()


class Store(msgspec.Struct, frozen=True):
    """Where model files and the registry live."""

    kind: Annotated[
        Literal["folder", "drive", "bucket"],
        Meta(description="folder: a plain or mounted folder; drive: Google Drive, signed in; bucket: S3, GCS, Azure."),
    ] = "folder"
    path: Annotated[
        str, Meta(description="Folder of the store; relative to the workspace. A mounted Drive works too.")
    ] = ".hybrid/drive"
    root: Annotated[str, Meta(min_length=1, description="Root folder inside the store.")] = "Banking LLM"
    url: Annotated[str, Meta(description='The bucket, when kind is "bucket": s3://NAME/PREFIX, gs://…, az://….')] = ""


class Drive(msgspec.Struct, frozen=True):
    """Google Drive: who we are to Google, and which of its folders is the store. See docs/drive-setup.md."""

    client: Annotated[str, Meta(description="The OAuth client: the JSON file from Google's console.")] = (
        "~/.config/hybrid-tui/client.json"
    )
    account: Annotated[
        Literal["user", "adc", "service-account", "colab"],
        Meta(description="Whose grant: yours by sign-in, Application Default Credentials, a service account, Colab's."),
    ] = "user"
    key: Annotated[str, Meta(description="A service account's key file, when account says so.")] = ""
    scope: Annotated[
        Literal["drive.file", "drive"],
        Meta(description="drive.file: only what this OAuth client made; drive: everything, also models put by hand."),
    ] = "drive.file"
    root_id: Annotated[str, Meta(description="Id of the store's root folder; drive.init finds or makes it.")] = ""
    shared_drive: Annotated[str, Meta(description="Id of a shared drive that holds the root; empty: My Drive.")] = ""
    transfers: Annotated[int, Meta(ge=1, le=32, description="How many files travel at once.")] = 8
    api: Annotated[str, Meta(description="Root address of the API; another one for proxies and tests.")] = (
        "https://www.googleapis.com"
    )
    token_url: Annotated[str, Meta(description="Where tokens are had and renewed.")] = (
        "https://oauth2.googleapis.com/token"
    )
    auth_url: Annotated[str, Meta(description="Where a browser is sent to agree to the sign-in.")] = (
        "https://accounts.google.com/o/oauth2/v2/auth"
    )


class Colab(msgspec.Struct, frozen=True):
    """Google Colab as a place to train, through its official command line (pip name google-colab-cli)."""

    cli: Annotated[str, Meta(description="The command; empty: colab in PATH or among the tools of uv and pipx.")] = ""
    accelerator: Annotated[
        Literal["none", "T4", "L4", "G4", "A100", "H100"], Meta(description="What a run asks for; none: CPU only.")
    ] = "T4"
    fallbacks: Annotated[
        tuple[str, ...], Meta(description='What is taken instead, in this order, when it is refused: ["T4", "none"].')
    ] = ()
    budget_units: Annotated[
        float, Meta(ge=0, description="Most compute units that a run may use when it names no budget; 0 = no limit.")
    ] = 0.0
    idle_minutes: Annotated[
        float, Meta(gt=0, description="How long a machine whose run has ended waits to be fetched before it goes.")
    ] = 30.0
    renew: Annotated[
        int, Meta(ge=0, le=20, description="How often a run whose machine was taken away gets a new one by itself.")
    ] = 1
    packages: Annotated[
        tuple[str, ...], Meta(description="What is installed there beside Colab's own packages; empty: what it takes.")
    ] = ()
    units_per_hour: Annotated[
        dict[str, float], Meta(description='Used only if the account tells no rate, e.g. {"T4" = 1.2}.')
    ] = {}
    rates_dated: Annotated[str, Meta(description="Of which day units_per_hour is, e.g. 2026-11-01.")] = ""


class Notebook(msgspec.Struct, frozen=True):
    """Runs in a notebook that you open yourself in Colab or Kaggle; the store carries everything."""

    mounted: Annotated[
        str, Meta(description="Where the notebook finds the store; empty: My Drive in Colab, or this box's own path.")
    ] = ""
    poll_seconds: Annotated[float, Meta(gt=0, description="How often the box looks into the store.")] = 15.0
    delay_seconds: Annotated[
        float, Meta(gt=0, description="How long the notebook gathers events before it writes them into the store.")
    ] = 10.0
    lost_minutes: Annotated[
        float, Meta(gt=0, description="A notebook that wrote nothing for so long is taken for gone.")
    ] = 30.0


class Ray(msgspec.Struct, frozen=True):
    """A Ray cluster as a place to train, through its Jobs API; see docs/ray.md. Its token is never kept here."""

    address: Annotated[
        str, Meta(description="The cluster's dashboard, http://HEAD:8265; empty: RAY_API_SERVER_ADDRESS, RAY_ADDRESS.")
    ] = ""
    nodes: Annotated[int, Meta(ge=1, description="How many nodes share a run.")] = 1
    gpus: Annotated[int, Meta(ge=0, description="GPUs a node, one process on each; 0: one process on the CPU.")] = 1
    cpus: Annotated[float, Meta(gt=0, description="CPUs that each process asks for.")] = 1.0
    packages: Annotated[
        tuple[str, ...], Meta(description="What is installed there first, as pip names it; empty: all is there.")
    ] = ()
    folder: Annotated[
        str, Meta(min_length=1, description="Where the head node keeps runs; best on a disk that outlives it.")
    ] = "/tmp/hybrid-ray"
    poll_seconds: Annotated[float, Meta(gt=0, description="How often the box asks how the job is.")] = 3.0
    lost_minutes: Annotated[
        float, Meta(gt=0, description="A cluster that did not answer for so long is taken for gone.")
    ] = 15.0
    money_per_hour: Annotated[
        float, Meta(ge=0, description="What the cluster costs while a run is on it; 0: no cost.")
    ] = 0.0
    currency: Annotated[str, Meta(description="Of money_per_hour.")] = "USD"
    rates_dated: Annotated[str, Meta(description="Of which day money_per_hour is, e.g. 2026-11-01.")] = ""


class Model(msgspec.Struct, frozen=True):
    """The model that training and inference start from."""

    base: Annotated[
        str, Meta(min_length=1, description="Built-in name, local folder, GGUF file or Hugging Face id.")
    ] = "smollm2-135m-instruct"


class Costs(msgspec.Struct, frozen=True):
    """What runs may cost, and what an hour costs where the account doesn't tell. See docs/costs.md."""

    month: Annotated[
        dict[str, float], Meta(description='A month\'s ceilings, e.g. {"units" = 50, "USD" = 20}: warned at 80 %.')
    ] = {}
    rates: Annotated[
        dict[str, str],
        Meta(description='Prices, e.g. {"colab/L4" = "2.1 units/h, 2026-11-20, colab usage", "local" = "0.18 USD/h"}.'),
    ] = {}


class Inference(msgspec.Struct, frozen=True):
    """Defaults of generation."""

    temperature: Annotated[float, Meta(ge=0, le=5, description="0 is greedy.")] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=32768, description="Longest answer, in tokens.")] = 128
    memory_gb: Annotated[float, Meta(gt=0, description="The model's process restarts beyond this.")] = 6.0


class Panel(msgspec.Struct, frozen=True):
    """Looks and keys of the panel."""

    theme: Annotated[str, Meta(description="A Textual theme name; ctrl+p lists them.")] = "hybrid-dark"
    keys: Annotated[dict[str, str], Meta(description='Own keys by binding id, e.g. {"app.help" = "f1"}.')] = {}


class OwnKind(msgspec.Struct, frozen=True):
    """A cache kind of the project's own, [kinds.NAME]: what lies in ``paths`` and matches ``pattern`` can go."""

    paths: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Folders, relative to the workspace, or with ~.")
    ] = ()
    title: Annotated[str, Meta(description="What it is, in a few words; the name when left out.")] = ""
    pattern: Annotated[
        str, Meta(pattern=r"^[^/]+$", description="Which of the folders' entries can go, as in the shell: run-*.")
    ] = "*"
    risk: Annotated[
        Literal["none", "low", "high"],
        Meta(description="none: it comes back by itself; low: by a download or a rebuild; high: perhaps never."),
    ] = "high"
    restore: Annotated[str, Meta(description="How it comes back, as a sentence.")] = ""
    budgeted: Annotated[bool, Meta(description="It counts against [disk] caches_gb.")] = False


class Settings(msgspec.Struct, frozen=True):
    """All settings; one attribute a section."""

    disk: Disk = Disk()
    cleaning: Cleaning = Cleaning()
    upkeep: Upkeep = Upkeep()
    store: Store = Store()
    drive: Drive = Drive()
    notebook: Notebook = Notebook()
    ray: Ray = Ray()
    model: Model = Model()
    costs: Costs = Costs()
    inference: Inference = Inference()
    colab: Colab = Colab()
    panel: Panel = Panel()
    kinds: dict[str, OwnKind] = {}


class Loaded(msgspec.Struct, frozen=True):
    """Settings as read, and one sentence for each thing in the file or environment that was not used."""

    settings: Settings
    warnings: tuple[str, ...] = ()


def sections() -> dict[str, type[msgspec.Struct]]:
    """Section name → its type, in the order of the file."""
    fields = msgspec.structs.fields(Settings)
    return {f.name: type(f.default) for f in fields if isinstance(f.default, msgspec.Struct)}


def load(path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read ``path`` (absent is fine) and the environment. Never raises for bad content; see ``Loaded.warnings``."""
    warnings: list[str] = []
    raw = _read(path, warnings)
    kinds = sections()
    own = _own_kinds(path.name, raw.pop("kinds", {}), warnings)
    for name in raw.keys() - kinds.keys():
        warnings.append(f"{path.name}: unknown section [{name}]{nearest(name, [*kinds, 'kinds'])}")
    values: dict[str, Any] = {
        name: _section(path.name, name, kind, raw.get(name, {}), warnings) for name, kind in kinds.items()
    }
    _environment(values, os.environ if environ is None else environ, warnings)
    return Loaded(Settings(**values, kinds=own), tuple(warnings))


def _read(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        warnings.append(
            f"{path} can't be read ({error}); the built-in settings are used and the file is left as it is."
        )
        return {}


def _section(file: str, name: str, kind: type[msgspec.Struct], raw: Any, warnings: list[str]) -> msgspec.Struct:
    if not isinstance(raw, dict):
        warnings.append(f"{file}: [{name}] must be a section; its defaults are used.")
        return kind()
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    good: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            warnings.append(f"{file}: unknown key '{key}' in [{name}]{nearest(key, list(fields))}")
            continue
        try:
            good[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            warnings.append(f"{file}: [{name}] {key} = {value!r} is not usable ({error}); the default is used.")
    return kind(**good)


def _own_kinds(file: str, raw: Any, warnings: list[str]) -> dict[str, OwnKind]:
    """The sections [kinds.NAME]; one without usable paths is left out, for a default would be a guess."""
    if not isinstance(raw, dict):
        warnings.append(f"{file}: [kinds] must hold sections [kinds.NAME]; it is not used.")
        return {}
    found: dict[str, OwnKind] = {}
    for name, section in raw.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            warnings.append(f"{file}: [kinds.{name}] is not used: a name has small letters, digits and dashes.")
            continue
        kind = _section(file, f"kinds.{name}", OwnKind, section, warnings)
        if isinstance(kind, OwnKind) and kind.paths:
            found[name] = kind
        else:
            warnings.append(f'{file}: [kinds.{name}] is not used: it needs paths = ["FOLDER", …].')
    return found


def _environment(values: dict[str, Any], environ: Mapping[str, str], warnings: list[str]) -> None:
    for section, struct in list(values.items()):
        for f in msgspec.structs.fields(type(struct)):
            variable = f"HYBRID_{section}_{f.name}".upper()
            if variable not in environ:
                continue
            try:
                value = msgspec.convert(_words(environ[variable], f.type), f.type, strict=False)
            except msgspec.ValidationError as error:
                warnings.append(f"{variable}={environ[variable]!r} is not usable ({error}); it is ignored.")
                continue
            values[section] = msgspec.structs.replace(values[section], **{f.name: value})


def _words(text: str, annotation: Any) -> str | list[str]:
    """A variable for a list holds its items separated by commas."""
    bare = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    return [word.strip() for word in text.split(",") if word.strip()] if get_origin(bare) is tuple else text


def document() -> str:
    """A complete ``hybrid.toml`` with every key at its default and its description as a comment."""
    lines = ["# hybrid-tui settings. Every key is optional; environment: HYBRID_<SECTION>_<KEY>.", ""]
    for section, kind in sections().items():
        lines += [f"# {(kind.__doc__ or '').strip()}", f"[{section}]"]
        for f in msgspec.structs.fields(kind):
            default = f.default if f.default is not msgspec.NODEFAULT else f.default_factory()
            lines += [f"# {_description(f.type)}", f"{f.name} = {_toml(default)}"]
        lines.append("")
    return "\n".join([*lines, *_OWN_KIND_EXAMPLE, ""])


_OWN_KIND_EXAMPLE = (
    "# A cache kind of the project's own; docs/storage-kinds.md has all its keys.",
    "# [kinds.wandb]",
    '# paths = ["wandb"]',
    '# pattern = "run-*"',
    '# restore = "wandb sync has them online."',
)


def _description(annotation: Any) -> str:
    metas = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Meta)]
    return (metas[0].description or "") if metas else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
