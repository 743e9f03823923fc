"""The command line: it parses arguments, calls what is in `runs`, and shows what came out.

Parsing alone is done here: what a command calls is imported when it runs, so that `fedgmi --help` is quick.
"""

from __future__ import annotations

import inspect
import os
import shlex
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fedgmi import __version__
from fedgmi.deploy import commands
from fedgmi.deploy.commands import deploy_app, site_app
from fedgmi.errors import ConfigError, FedgmiError, FedgmiWarning, StorageError, counted
from fedgmi.report.console import OwnConsole, tell
from fedgmi.storage import folder

if TYPE_CHECKING:
    from fedgmi.runs.config import Config

app = typer.Typer(
    help="What is a federation made of, and what model does each member deserve?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(site_app, name="site")
app.add_typer(deploy_app, name="deploy")
predict = app.command()(commands.predict)

ConfigFile = Annotated[Path | None, typer.Argument(metavar="CONFIG.toml", help="Without it: the digits.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. The user's mistakes end in one message and exit code 2; bugs keep their traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait crawl on a busy machine
    with warnings.catch_warnings():
        warnings.showwarning = partial(show_warning, warnings.showwarning)
        try:
            app(args=arguments, prog_name="fedgmi")
        except FedgmiError as error:
            tell(_errors(), "error", counted(str(error)))
            raise SystemExit(2) from None


def show_warning(usual: Callable[..., None], message: Warning | str, *place: Any, **more: Any) -> None:
    """Our own warnings are for the user; others keep the place that they come from."""
    if not isinstance(message, FedgmiWarning):
        return usual(message, *place, **more)
    tell(_errors(), "warning", counted(str(message)))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedgmi {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


@app.command()
def run(
    file: ConfigFile = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Results folder.",
            show_default="runs/NAME-SEED, by the name of the config, or else of the data",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the results folder: a killed one ends with the numbers of an uninterrupted "
            "one, a finished one is only reported. Where there is none, a new one starts if its settings are given.",
        ),
    ] = False,
) -> None:
    """Find out what a federation is made of, and train its components, experts and predictors."""
    settings = _settings(file, overrides or [], (out or _default_folder(None, None)) if resume else None)
    out = out or _default_folder(file, settings)
    try:
        from fedgmi.report.progress import listening
        from fedgmi.runs import experiment
        from fedgmi.runs.setup import open_process

        open_process()
        with folder.claimed(out, resume=resume), listening(_errors()) as listener:
            summary = experiment.run(settings, out, resume=resume, listener=listener)
        _show(summary, out)
    except StorageError as error:
        error.advise(f"{error.fix}. Then go on with: {_resume_command(file, overrides or [], out)}")
        raise
    except KeyboardInterrupt:
        told = f"interrupted; continue with: {_resume_command(file, overrides or [], out)}"
        _errors().print(Text(told), soft_wrap=True)
        raise typer.Exit(130) from None


@app.command()
def diagnose(
    file: ConfigFile = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="A new folder.", show_default="runs/NAME-SEED-diagnosis")] = None,
) -> None:
    """Say how many components a federation has, whether it is a mixture of them at all, and who does not fit.

    Clients are asked for counts, once, and nothing is trained. To test for a number of components of your own:
    --set method.n_components=K.
    """
    settings = _settings(file, overrides or [], None)
    out = out or _default_folder(file, settings, "-diagnosis")
    try:
        from fedgmi.runs import diagnose as diagnose_run
        from fedgmi.runs.setup import open_process

        open_process()
        with (
            folder.claimed(out, resume=False),
            _errors().status("Asking the clients, then drawing federations like theirs …"),
        ):
            diagnosis = diagnose_run.run(settings, out)
        _show_diagnosis(diagnosis, out)
    except KeyboardInterrupt:
        _errors().print("interrupted: there is no diagnosis", soft_wrap=True)
        raise typer.Exit(130) from None


@app.command()
def compare(
    methods: Annotated[str, typer.Option(help="Names with commas between them; `fedgmi list` shows them.")],
    file: ConfigFile = None,
    overrides: Overrides = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers with commas between them.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    tune: Annotated[bool, typer.Option("--tune", help="Validation rows choose each method's own settings.")] = False,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="runs/NAME-comparison")] = None,
) -> None:
    """Run methods side by side over seeds, and say which is best, and whether it is.

    Also fedgmi-plain, fedgmi-sketch (its presets) and oracle. The same command again goes on where it was cut off.
    --set method.KEY=VALUE is for every compared method that has the setting, --set compare.NAME.KEY=VALUE for one.
    """
    from fedgmi.runs.contestants import check_contestants

    names = _words(methods)
    check_contestants(names)
    from fedgmi.runs import config, reach  # and torch with it, which takes seconds

    settings, told = reach.load_for(file, overrides or [], names)
    out = out or Path("runs") / f"{_name(file, settings)}-comparison"
    numbers = config.seeds(_words(seeds), "--seeds")
    for line in told:
        _errors().print(line, highlight=False, soft_wrap=True)
    try:
        from fedgmi.report.comparison import print_comparison, write_comparison
        from fedgmi.report.progress import watching
        from fedgmi.runs import compare as comparing

        with watching(_errors()) as watch:
            comparison = comparing.compare(settings, out, names, numbers, jobs=jobs, tune=tune, watch=watch)
        write_comparison(comparison, out)
        print_comparison(comparison, out, OwnConsole())
        if any("failed" in cell for cell in comparison["cells"]):
            raise typer.Exit(1)
    except StorageError as error:
        error.advise(f"{error.fix}. The same command then goes on from here")
        raise
    except KeyboardInterrupt:
        _errors().print("interrupted; the same command goes on from here", soft_wrap=True)
        raise typer.Exit(130) from None


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Results of a finished run, a diagnosis or a comparison.")],
) -> None:
    """Draw the picture of a finished run or of a diagnosis anew, and print its tables, or those of a comparison."""
    from fedgmi.runs.records import Comparison, DiagnosisRecord, Summary

    if folder.holds_comparison(out):
        from fedgmi.report.comparison import print_comparison

        print_comparison(Comparison.read(out).to_json(), out, OwnConsole())
    elif folder.holds_diagnosis(out):
        _show_diagnosis(DiagnosisRecord.read(out).to_json(), out)
    else:
        summary = Summary.read(out).to_json()
        folder.warn_of_lost_records(out)
        beside = out / folder.OF_DEPLOYMENT
        _show(summary, out, DiagnosisRecord.read(beside).to_json() if folder.holds_diagnosis(beside) else None)


@app.command("list")
def list_() -> None:
    """Name the methods, scenarios, densities, experts and tasks that a configuration can choose from."""
    from fedgmi.data.scenarios.scenarios import SCENARIOS
    from fedgmi.methods import METHODS
    from fedgmi.models.densities import DENSITIES
    from fedgmi.models.experts import EXPERTS
    from fedgmi.runs.metrics import of_task
    from fedgmi.settings.run import TASKS

    console = OwnConsole()
    tables: dict[str, Mapping[str, Any]] = {
        "method": METHODS,
        "scenario": SCENARIOS,
        "density": DENSITIES,
        "expert": EXPERTS,
    }
    for kind, table in tables.items():
        console.print(Text(f"{kind}.name", style="bold"))
        for name in table:
            try:
                told = one_line(kind, table[name])
            except ConfigError as error:  # of an outside package, which is named
                told = f"cannot be used: {error.what}"
            console.print(f"  {name:<14}{told}", highlight=False, soft_wrap=True)
    console.print(Text("data.task", style="bold"))
    for task, told in TASKS.items():
        console.print(f"  {task:<16}{told}, judged by {', '.join(of_task(task))}", highlight=False, soft_wrap=True)


def one_line(kind: str, entry: Any) -> str:
    """An entry's summary, or the first line of its documentation; densities have a file each. Its tasks, unless all."""
    from fedgmi.settings.run import TASKS

    documented = inspect.getmodule(entry) if kind == "density" else entry
    told = str(getattr(entry, "summary", "") or (inspect.getdoc(documented) or "").partition("\n")[0])
    tasks = getattr(entry, "tasks", tuple(TASKS))
    return told if len(tasks) == len(TASKS) else f"{told} ({', '.join(tasks)} alone)"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _settings(file: Path | None, overrides: list[str], resumed: Path | None) -> Config:
    """A resumed run that is given no settings keeps those that it began with.

    Raises:
        ConfigError: Where no run has begun there: the settings of the digits would be somebody else's.
    """
    if file is None and not overrides and resumed is not None:
        file = resumed / folder.CONFIG
        if not file.exists():
            fix = "give the folder of a run, or the settings of a new one: fedgmi run CONFIG.toml --resume --out …"
            raise ConfigError("no run has begun there, and no settings are given", where=str(resumed), fix=fix)
    from fedgmi.runs.config import load

    return load(file, overrides)


def _default_folder(file: Path | None, settings: Config | None, ending: str = "") -> Path:
    return Path("runs") / f"{_name(file, settings)}-{settings.seed if settings else 0}{ending}"


def _name(file: Path | None, settings: Config | None) -> str:
    """What results are called after: the config, else the data."""
    return file.stem if file else Path(settings.data.path).stem if settings else "digits"


def _resume_command(file: Path | None, overrides: list[str], out: Path) -> str:
    arguments = [str(file)] if file else []
    arguments += [word for assignment in overrides for word in ("--set", assignment)]
    return shlex.join(["fedgmi", "run", *arguments, "--out", str(out), "--resume"])


def _show(summary: dict[str, Any], out: Path, diagnosis: dict[str, Any] | None = None) -> None:
    from fedgmi.report.picture import write_picture
    from fedgmi.report.tables import print_report

    if summary.get("proportions"):  # fedavg and local have none
        write_picture(summary, out / folder.PICTURE)
    print_report(summary, out, OwnConsole(), diagnosis)


def _show_diagnosis(diagnosis: dict[str, Any], out: Path) -> None:
    from fedgmi.report.diagnosis_picture import write_diagnosis_picture
    from fedgmi.report.diagnosis_tables import print_diagnosis

    write_diagnosis_picture(diagnosis, out / folder.DIAGNOSIS_PICTURE)
    print_diagnosis(diagnosis, out, OwnConsole())


def _errors() -> OwnConsole:
    return OwnConsole(stderr=True)
