"""Getting a machine and giving it back, with the unmodified command line: refusals, fallbacks, busy days, orphans."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services import settings as all_settings
from services.context import Context, NeedsYes
from services.errors import BadInput, HybridError
from services.runs import spec as specs
from services.runs.colab import actions
from services.runs.colab.agent import Agent
from services.runs.colab.cli import Busy, Cli, CliError, Denied, Gone, SignIn, TooMany, find
from services.runs.colab.ends import Vanished
from services.runs.colab.equip import PACKAGES
from services.runs.colab.machine import Maker
from services.runs.colab.target import TARGET
from services.runs.emit import Emitter
from services.runs.remote import Remote, read_remote, write_remote
from services.runs.train import StartParams
from services.runs.types import RunSpec
from services.settings import Colab
from services.workspace import Workspace
from tests.conftest import CHECKOUT
from tests.runs.colab.bed import Bed
from tests.runs.conftest import until

pytestmark = pytest.mark.colab


@pytest.fixture
def maker(bed: Bed, workspace: Workspace, make_spec: Callable[..., RunSpec]) -> Callable[..., Maker]:
    """A Maker for a fresh run, with the settings given."""

    def make(accelerator: str = "T4", **settings: object) -> Maker:
        spec = make_spec(options={"accelerator": accelerator})
        run_dir = workspace.runs / spec.id
        (run_dir / "control").mkdir(parents=True)
        return Maker(run_dir, spec, Colab(cli=bed.cli, **settings), Cli(bed.cli), Emitter(run_dir))  # type: ignore[arg-type]

    return make


async def test_a_refused_accelerator_costs_nothing_and_a_fallback_is_taken_only_if_allowed(
    bed: Bed, maker: Callable[..., Maker]
) -> None:
    refused = maker("H100")
    with pytest.raises(Denied, match="H100"):
        await refused.get(1)
    assert not bed.machines()
    remote = read_remote(refused.run_dir)
    assert remote is not None
    assert not remote.live
    bed.set(assign_errors=[503, 503])  # Colab's own program asks again
    bed.set(token_life=60)  # so short that the program renews it at every command
    second = maker("H100", fallbacks=("T4",))
    remote = await second.get(1)
    assert remote.live
    assert remote.machine.startswith("T4, t4-s-")
    assert second.meter.rate == 1.5
    assert second.meter.source == "account"
    assert await second.give_back(remote)
    assert not bed.machines()


async def test_a_machine_without_the_gpu_asked_for_is_given_back_at_once(bed: Bed, maker: Callable[..., Maker]) -> None:
    bed.gpu("")
    with pytest.raises(Denied, match="no GPU where T4"):
        await maker().get(1)
    assert not bed.machines()


async def test_what_colab_answers_is_told_apart(bed: Bed, maker: Callable[..., Maker]) -> None:
    cli = Cli(bed.cli)

    async def full() -> None:
        bed.set(max_vms=0)
        with pytest.raises(TooMany) as error:
            await cli.new("x", "T4")
        assert "train.sessions" in error.value.hint
        bed.set(max_vms=3)

    await full()
    bed.set(assign_errors=[503] * 9)
    with pytest.raises(Busy, match="Service Unavailable"):
        await cli.new("x", "none")
    bed.set(assign_errors=[], auth_ok=False)
    failures = await asyncio.gather(cli.usage(), cli.sessions(), cli.new("x", "T4"), return_exceptions=True)
    assert [type(failure) for failure in failures] == [SignIn] * 3, failures
    assert not bed.machines()


async def test_figures_within_an_address_are_no_status(tmp_path: Path) -> None:
    program = tmp_path / "colab"
    said = "POST http://127.0.0.1:40401/assign?nbh=92ccc948_4b2e_4045_a401_e2f2: Service Unavailable."
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Busy, match="Service Unavailable"):
        await Cli(str(program)).new("x", "none")


async def test_an_answer_is_taken_when_it_is_printed_and_its_lack_is_told(bed: Bed) -> None:
    cli = Cli(bed.cli)
    await cli.new("x", "none")
    failing = asyncio.ensure_future(cli.execute("x", "print('none'); 1 / 0", "@"))
    with pytest.raises(Gone):
        await cli.execute("y", "print('@yes')", "@")
    with pytest.raises(CliError, match="did not answer: ZeroDivisionError"):
        await failing
    started = time.monotonic()
    assert await cli.execute("x", "import time; print('@yes', flush=True); time.sleep(60)", "@") == "yes\n"
    assert time.monotonic() - started < 30


async def test_machines_nobody_follows_are_listed_and_given_back(bed: Bed, ctx: Context) -> None:
    cli = Cli(bed.cli)
    await asyncio.gather(cli.new("hybrid-20260101-0000-aaaa-1", "T4"), cli.new("mine", "none"))
    state = bed.box / "home/.config/colab-cli/sessions.json"
    state.write_text(state.read_text().replace("mine", "other"))  # as if another program had made it
    sessions = await actions.sessions(ctx, actions.NoParams())
    orphan, other = sessions.machines
    assert (orphan.name, orphan.hardware, orphan.orphan) == ("hybrid-20260101-0000-aaaa-1", "T4", True)
    assert not other.orphan
    assert sessions.rate == pytest.approx(1.6)
    state.unlink()  # both are strangers to the program now
    endpoint = orphan.endpoint
    with pytest.raises(NeedsYes):
        await actions.release(ctx, actions.ReleaseParams(endpoint))
    with pytest.raises(BadInput, match="no machine 'nothing'"):
        await actions.release(ctx, actions.ReleaseParams("nothing"))
    released = await actions.release(Context(ctx.workspace, yes=True), actions.ReleaseParams(endpoint))
    assert released.endpoint == endpoint
    assert bed.machines() == [other.endpoint]


async def test_before_anything_is_paid_the_program_the_sign_in_and_the_accelerator_are_checked(
    bed: Bed, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workspace(**values: object) -> Context:
        settings = all_settings.Settings(colab=Colab(**{"cli": bed.cli, **values}))  # type: ignore[arg-type]
        return Context(Workspace(ctx.workspace.root, settings))

    with pytest.raises(BadInput, match="no accelerator 'T5'; did you mean 'T4'"):
        await TARGET.check(workspace(), StartParams(accelerator="T5"))
    bed.set(balance=0.5)
    warnings = await TARGET.check(workspace(), StartParams())
    assert warnings == ("Your Colab account has 0.5 compute units left.",)
    with pytest.raises(BadInput, match="not a program") as error:
        await TARGET.check(workspace(cli="/nowhere/colab"), StartParams())
    assert "Python 3.12" in error.value.hint
    assert not any("assign?" in request for request in bed.requests())


def test_a_missing_program_is_one_sentence_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match="not installed") as error:
        find(Colab())
    assert "uv tool install --python 3.12 google-colab-cli" in error.value.hint
    tool = tmp_path / ".local/bin/colab"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/nowhere/python\n")
    tool.chmod(0o755)
    assert find(Colab()) == str(tool)
    with pytest.raises(BadInput, match="can't be run"):
        asyncio.run(Cli(str(tool)).usage())


def test_the_packages_installed_there_are_those_of_the_models_extra() -> None:
    import tomllib

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extra = [word for word in project["optional-dependencies"]["models"] if not word.startswith(("torch", "gguf"))]
    core = [word for word in project["dependencies"] if word.startswith("msgspec")]
    assert sorted(PACKAGES) == sorted([*extra, *core, "torch"])  # torch: Colab's own, whatever its version


async def test_a_cancelled_wait_for_a_busy_colab_ends_at_once(bed: Bed, maker: Callable[..., Maker]) -> None:
    one = maker()
    one.spec.options["busy_s"] = 60.0
    bed.set(assign_errors=[503] * 99)
    asking = asyncio.ensure_future(one.get(1))
    await asyncio.to_thread(until, lambda: sum("POST /tun/m/assign" in r for r in bed.requests()) >= 4, 60)
    (one.run_dir / "control" / "cancel").touch()
    started = time.monotonic()
    with pytest.raises(Exception) as error:
        await asking
    assert type(error.value).__name__ == "Cancelled"
    assert time.monotonic() - started < 20
    assert not isinstance(error.value, HybridError)


async def test_following_again_gets_no_new_machine_when_the_old_one_is_gone(
    bed: Bed, maker: Callable[..., Maker]
) -> None:
    one = maker()
    specs.write(one.run_dir, one.spec)
    write_remote(one.run_dir, Remote("colab", f"hybrid-{one.spec.id}-1", True, machine="T4, t4-s-gone"))
    (one.run_dir / "control" / "follow").touch()
    with pytest.raises(Vanished, match="T4, t4-s-gone is gone") as error:
        await Agent(one.run_dir, Emitter(one.run_dir)).run()
    assert "train.resume" in error.value.hint
    remote = read_remote(one.run_dir)
    assert remote is not None
    assert not remote.live
    assert not any("assign?" in request for request in bed.requests())
