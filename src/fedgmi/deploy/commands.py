"""The commands of a deployment: `fedgmi site` and `fedgmi deploy`.

They parse arguments. What they call is imported when they run, so that `fedgmi --help` answers at once. Docstrings are
the help that users see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedgmi.errors import ConfigError, UserError

if TYPE_CHECKING:
    from fedgmi.deploy.link import LinkSettings

site_app = typer.Typer(help="For a site of a federation over several machines.", no_args_is_help=True)
deploy_app = typer.Typer(help="For the coordinator of a federation over several machines.", no_args_is_help=True)


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
        typer.Option(metavar="CA.CRT", help="The certificate of the authority that signed its own. Default: no TLS."),
    ] = None,
) -> None:
    """Check the site's rows against what the federation agreed on, and say what leaves the site and what never does.

    Nothing that is read from rows is sent anywhere.
    """
    from fedgmi.deploy.setup import check_app
    from fedgmi.deploy.setup.address import parse
    from fedgmi.deploy.site.site_check import check, print_check

    print_check(check(file, federation or file.parent / "federation.toml"), Console())
    if superlink is not None:
        typer.echo(check_app.check_link(parse(superlink, "--superlink"), root_certificates))
    elif root_certificates is not None:
        raise ConfigError(
            "there is no SuperLink to check", where="--root-certificates", fix="give --superlink HOST:PORT too"
        )


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
    serve.serve(file, link, port=port, say=typer.echo)


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
    typer.echo(f"{where} is written. Next: edit {where / 'federation.toml'}, and go through {where / 'README.md'}.")


@deploy_app.command("check")
def check_deploy(where: Annotated[Path, typer.Argument(metavar="DIR", help="What `deploy init` wrote.")]) -> None:
    """Check settings, keys, certificates and the port before anything is started."""
    from fedgmi.deploy.setup.check_app import check_app

    for line in check_app(where):
        typer.echo(line)


@deploy_app.command()
def status(out: Annotated[Path, typer.Argument(metavar="DIR", help="The run's results folder.")]) -> None:
    """Show which sites are alive, and their last round, rows and bytes."""
    from fedgmi.deploy.coordinator import status as current

    current.print_status(current.read(out), Console())


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

    show(out.absolute(), Console())
