"""The commands of a deployment: `fedgmi site` and `fedgmi deploy`.

They parse arguments. What they call is imported when they run, so that `fedgmi --help` answers at once. Docstrings are
the help that users see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgmi.errors import ConfigError, DataError, UserError, counted
from fedgmi.report.console import OwnConsole, hand_out, say

if TYPE_CHECKING:
    from fedgmi.deploy.link import LinkSettings

# Markdown: by typer's default, markup of rich, a word in brackets such as [rows] would vanish from the help.
_HELP: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": "markdown"}
site_app = typer.Typer(help="For a site of a federation over several machines.", **_HELP)
deploy_app = typer.Typer(help="For the coordinator of a federation over several machines.", **_HELP)


@site_app.command("check")
def check_site(
    file: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own settings.")],
    federation: Annotated[
        Path | None,
        typer.Option(help="The federation's settings.", show_default="federation.toml beside SITE.toml"),
    ] = None,
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Check that the coordinator's SuperLink answers here.")
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            metavar="CA.CRT",
            help="The certificate of the authority that signed its own.",
            show_default="[superlink] of SITE.toml, or else no TLS",
        ),
    ] = None,
) -> None:
    """Check the site's rows against what the federation agreed on, and say what leaves the site and what never does.

    Nothing that is read from rows is sent anywhere. All that is wrong with the rows is listed at once; the exit code is
    then 1. It is 2 where rows are as agreed, or cannot be found, and the site cannot be served: a setting, key or
    certificate is wrong, limits are used up, there is no such device, or no SuperLink answers where one was asked.
    """
    from fedgmi.data.problems import Several
    from fedgmi.deploy.setup.address import parse
    from fedgmi.deploy.setup.superlink import check_link
    from fedgmi.deploy.site.readiness import hindrances
    from fedgmi.deploy.site.show_check import print_check, print_problems
    from fedgmi.deploy.site.site_check import check

    if root_certificates is not None and superlink is None:
        fix = "give --superlink HOST:PORT too"
        raise ConfigError("there is no SuperLink to check", where="--root-certificates", fix=fix)
    address, errors = superlink and parse(superlink, "--superlink"), OwnConsole(stderr=True)
    try:
        found = check(file, federation or file.parent / "federation.toml")
    except DataError as error:
        print_problems(error.found if isinstance(error, Several) else (error,), errors)
        raise typer.Exit(1) from None
    problems = [*hindrances(found.settings, found.federation, found.rows, file.parent)]
    answers = ""
    if address:
        own = found.settings.superlink.beside(file.absolute().parent).root_certificates
        try:
            answers = check_link(address, root_certificates or (Path(own) if own else None))
        except UserError as error:
            problems.append(error)
    print_check(found, OwnConsole(), ready=not problems)
    own_address = found.settings.superlink.address
    if answers:
        say(answers)
    elif own_address and not problems:
        say(f"Whether a SuperLink answers was not asked. This does: fedgmi site check {file} --superlink {own_address}")
    if problems:
        print_problems(problems, errors)
        raise typer.Exit(2)


@site_app.command("audit")
def audit_site(
    file: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own settings.")],
    days: Annotated[
        float | None, typer.Option(min=0, help="What left and was refused in the last days.", show_default="all")
    ] = None,
) -> None:
    """Show what left the site, what it has paid for its privacy, and what it refused.

    Ends with exit code 1 where a request was refused in that time.
    """
    from fedgmi.deploy.site.audit_view import print_audit

    if print_audit(file, OwnConsole(), days):
        raise typer.Exit(1)


@site_app.command("dry-run")
def dry_run_site(
    file: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own settings.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for what would be sent.")] = Path("dry-run"),
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Fewer rounds than there will be.", show_default="the federation's")
    ] = None,
    federation: Annotated[
        Path | None,
        typer.Option(help="The federation's settings.", show_default="federation.toml beside SITE.toml"),
    ] = None,
) -> None:
    """Write to disk what the site would send, by its own rows alone and without a network.

    The site stands in for all sites. Each step of the method is there once at least; how often a run asks, `fedgmi
    deploy check` counts. Nothing is charged to its ledger, and nothing counts as a run.
    """
    from fedgmi.deploy.local.dry_run import dry_run, print_dry_run

    print_dry_run(dry_run(file, federation or file.parent / "federation.toml", out, rounds), out, OwnConsole())


@site_app.command("describe")
def describe_site(
    file: Annotated[Path, typer.Argument(metavar="ROWS_OR_SITE.toml", help="Rows, or a site.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="A new file for the coordinator.", show_default="to the terminal")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of labels.")] = None,
    event: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of events; labels are then times.")] = None,
    task: Annotated[str, typer.Option(help="What labels are: classification, regression or survival.")] = (
        "classification"
    ),
    least: Annotated[int, typer.Option(min=1, help="A text or class of fewer rows is not told.")] = 5,
    ranges: Annotated[
        bool, typer.Option("--ranges", help="Tell in which range numbers are, wider by a tenth and rounded outwards.")
    ] = False,
) -> None:
    """Propose the section [rows] of federation.toml from a site's own rows, for the coordinator to merge.

    What stays at the site is said first. The file tells no single row: texts of few rows and ranges are left out.
    """
    from fedgmi.data.validate import check_task
    from fedgmi.deploy.site.describe import describe, lines, to_toml
    from fedgmi.storage import files

    survival = "survival" if event is not None else task
    found = describe(file, label=label, event=event, task=check_task(survival), least=least, ranges=ranges)
    for line in lines(found):
        say(line, err=out is None)
    text = to_toml(found.rows, about="Proposed by `fedgmi site describe`. The coordinator merges: fedgmi deploy merge")
    if out is None:
        hand_out(text)
        return
    _require_new(out)
    files.write_text(out, text)
    say(f"{out} is written: read it, then give it to the coordinator.")


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model's folder, such as site/results/model.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="A table, or a folder of pictures.")],
    out: Annotated[Path | None, typer.Option(help="A CSV file.", show_default="to the terminal")] = None,
    client: Annotated[str | None, typer.Option(help="Whose rows they are.", show_default="the only client")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="To show, too; repeatable.")] = None,
    times: Annotated[
        list[float] | None, typer.Option(metavar="TIME", help="For survival: the chance of none until then.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Rows like which later ones should be.", show_default="those held out, or the first"),
    ] = None,
    watch: Annotated[bool, typer.Option("--drift/--no-drift", help="Whether these rows count for drift.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 where rows have drifted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write --out anew where it is there already.")] = False,
) -> None:
    """Ask a site's own model about new rows: labels, probabilities, components, and whether the rows have drifted.

    Rows come in the order in which they were given. Nothing leaves this machine.
    """
    from fedgmi.deploy.site.predict import predict as ask
    from fedgmi.storage import files

    if out is not None and not force:  # before the rows are asked about, for they then count for drift
        _require_new(out, "give a new file, or --force to write it anew")
    found = ask(model, rows, client=client, keep=keep or (), times=times or (), reference=reference, watch=watch)
    text = found.to_csv()
    if out is None:
        hand_out(text)
    else:
        files.write_text(out, text)
        say(f"{out} is written: {len(text.splitlines()) - 1:,} rows.")
    for line in (*found.notes, *([] if found.drift is None else [f"drift: {found.drift.verdict}"])):
        say(counted(line), err=True)
    if strict and found.alarmed:
        raise typer.Exit(1)


@deploy_app.command("merge")
def merge_rows(
    proposals: Annotated[list[Path], typer.Argument(metavar="ROWS.toml…", help="What sites' `describe` wrote.")],
    out: Annotated[Path | None, typer.Option(help="A new file.", show_default="to the terminal")] = None,
) -> None:
    """Bring the sites' proposals together to the section [rows] of federation.toml.

    It names what some sites lack. Where sites contradict each other it says how, and the exit code is 1.
    """
    from fedgmi.deploy.settings import read_rows
    from fedgmi.deploy.setup.merge_rows import merge
    from fedgmi.deploy.site.describe import to_toml
    from fedgmi.report.formats import plural
    from fedgmi.storage import files

    found = merge({str(path): read_rows(path) for path in proposals})
    for note in found.notes:
        say(note, err=out is None)
    if found.rows is None:
        for conflict in found.conflicts:
            say(f"conflict: {conflict}", err=True)
        raise typer.Exit(1)
    whose = f"{plural(len(proposals), 'site')} {'has' if len(proposals) == 1 else 'have'}"
    text = to_toml(found.rows, about=f"What {whose} in common, by `fedgmi deploy merge`")
    if out is None:
        hand_out(text)
        return
    _require_new(out)
    files.write_text(out, text)
    say(f"{out} is written: put it into federation.toml in place of its section [rows].")


def _require_new(out: Path, fix: str = "give a new file") -> None:
    if out.exists():
        raise UserError("it is there already, and stays untouched", where=str(out), fix=fix)


@site_app.command("serve")
def serve_site(
    file: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own settings.")],
    superlink: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The coordinator's SuperLink.", show_default="[superlink] of SITE.toml"),
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(metavar="CA.CRT", help="The certificate of the authority that signed its own.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The site's private key, by which the SuperLink knows it.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No encryption and no authentication, for a trial on one machine.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorten waits of Flower's SuperNode that it has no switch for.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Of the SuperNode, on this machine alone.", show_default="one that is free")
    ] = None,
) -> None:
    """Serve the site until Ctrl-C or SIGTERM: one process that stays, loads the rows once, and starts its SuperNode.

    It answers with the fedgmi that is installed here. The app that the coordinator submits is thrown away unread.
    """
    try:
        from fedgmi.deploy.site import serve
    except ModuleNotFoundError as error:
        fix = "pip install 'fedgmi[flower]'"
        raise UserError(f"the package {error.name} is missing", where="fedgmi site serve", fix=fix) from error

    link = link_of(file, superlink, root_certificates, key, insecure=insecure, quick=quick)
    serve.serve(file, link, port=port, say=say)


def link_of(
    file: Path, superlink: str | None, root_certificates: Path | None, key: Path | None, *, insecure: bool, quick: bool
) -> LinkSettings:
    """What site.toml says of the SuperLink, with what the command line says in its place."""
    from fedgmi.deploy.settings import SiteSettings, read

    paths = {"root_certificates": root_certificates, "key": key}
    given: dict[str, Any] = {
        name: str(path.expanduser().absolute()) for name, path in paths.items() if path is not None
    }
    given |= {} if superlink is None else {"address": superlink}
    own = read(SiteSettings, file).superlink.beside(file.absolute().parent)
    given |= {"quick": own.quick or quick}
    if insecure:
        return own.model_copy(update={"root_certificates": None, "key": None} | given | {"insecure": True})
    return own.model_copy(update=given)


@deploy_app.command()
def init(
    where: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    name: Annotated[str | None, typer.Option(help="The federation's name.", show_default="the folder's")] = None,
    sites: Annotated[int, typer.Option(help="How many sites there will be.")] = 3,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites reach the SuperLink.")
    ] = "127.0.0.1:8000",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No encryption and no authentication, for a trial on one machine.")
    ] = False,
) -> None:
    """Write a Flower app, and a README.md that names the next commands, those for certificates and keys included."""
    from fedgmi.deploy.setup.init import init as write

    write(where, name=name, sites=sites, insecure=insecure, address=address)
    say(f"{where} is written. Next: edit {where / 'federation.toml'}, and go through {where / 'README.md'}.")


@deploy_app.command("check")
def check_deploy(where: Annotated[Path, typer.Argument(metavar="DIR", help="What `deploy init` wrote.")]) -> None:
    """Check settings, Flower's programs, keys, certificates and the port before anything is started."""
    from fedgmi.deploy.setup.check_app import check_app

    for line in check_app(where):
        say(line)


@deploy_app.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The run's results folder.")],
    prometheus: Annotated[bool, typer.Option("--prometheus", help="As text that Prometheus reads.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 where a site is away, the run failed, or nobody runs it.")
    ] = False,
) -> None:
    """Show which sites are alive, and their last round, rows and bytes."""
    from fedgmi.deploy.coordinator import status as current
    from fedgmi.deploy.coordinator.prometheus import text

    found = current.read(out)
    if prometheus:
        hand_out(text(found))
    else:
        current.print_status(found, OwnConsole())
    if strict and (why := current.trouble(found)):
        say(f"exit code 1: {why}", err=True)
        raise typer.Exit(1)


@deploy_app.command()
def demo(
    out: Annotated[Path, typer.Option(help="A new folder.")] = Path("runs/deploy-demo"),
) -> None:
    """Run the digits over a SuperLink and three sites on this machine, and once more in one process.

    It makes certificates and keys, and leaves nothing running.
    """
    try:
        from fedgmi.deploy.local.demo import demo as show
    except ModuleNotFoundError as error:
        fix = "pip install 'fedgmi[flower]'"
        raise UserError(f"the package {error.name} is missing", where="fedgmi deploy demo", fix=fix) from error

    show(out.absolute(), OwnConsole())
