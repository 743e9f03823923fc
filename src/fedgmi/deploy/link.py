"""How a site reaches the coordinator's SuperLink: the section `[superlink]` of `site.toml`."""

from __future__ import annotations

from pathlib import Path

from fedgmi.deploy.setup.address import parse
from fedgmi.deploy.setup.keys import AT_SITE, check_certificate, check_private
from fedgmi.errors import ConfigError
from fedgmi.settings.base import Section

SWITCHES = {  # Flower neither calls its makers nor installs anything
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


class LinkSettings(Section):
    """`[superlink]` of site.toml. Its paths are relative to the file.

    Attributes:
        address: HOST:PORT of the SuperLink; None: as the command line says.
        root_certificates: The certificate of the authority that signed its own, as the coordinator gave it.
        key: The site's own private key, by which the SuperLink knows it.
        insecure: Neither encryption nor authentication, for a trial on one machine.
        quick: Waits of Flower's SuperNode that no switch of its own changes are shortened
            (`fedgmi.deploy.quick`): an exchange takes a second or two rather than four or five.
    """

    address: str | None = None
    root_certificates: str | None = None
    key: str | None = None
    insecure: bool = False
    quick: bool = False

    def beside(self, folder: Path) -> LinkSettings:
        """The same with paths that are relative to nothing."""
        paths = {name: getattr(self, name) for name in ("root_certificates", "key")}
        known = {name: str((folder / Path(path).expanduser()).resolve()) for name, path in paths.items() if path}
        return self.model_copy(update=known)

    def checked(self, *, whole: bool = True) -> LinkSettings:
        """Itself, where a SuperNode can be started with it.

        Args:
            whole: Whether nothing may be missing, for `serve` is about to start. Else the command line can say it yet.

        Raises:
            ConfigError: There is no address, or files are missing, or contradict `insecure`.
            UserError: The key is not a private key, or others can read it; or the certificate is not good today.
        """
        if self.address is None and whole:
            fix = 'write address = "HOST:PORT" under [superlink] in site.toml, or give --superlink HOST:PORT'
            raise ConfigError("it is not said where the SuperLink is", where="superlink.address", fix=fix)
        if self.address is not None:
            parse(self.address, "superlink.address")
        given = {"superlink.root_certificates": self.root_certificates, "superlink.key": self.key}
        for name, path in given.items():
            if self.insecure and path is not None:
                fix = "leave out one of both"
                raise ConfigError("it is given, and insecure connections have no use for it", where=name, fix=fix)
            if not self.insecure and path is None and whole:
                fix = "name the file that the coordinator gave you; only a trial on one machine is `insecure`"
                raise ConfigError("it is not given, and the connection is to be secure", where=name, fix=fix)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"there is no file {path}", where=name, fix="correct the path")
        if self.key is not None:
            check_private(Path(self.key), fix="let the user that serves read it, and nobody else")
        if self.root_certificates is not None:
            check_certificate(Path(self.root_certificates), fix=AT_SITE, renew=AT_SITE)
        return self

    @property
    def unsaid(self) -> tuple[str, ...]:
        """The keys that `fedgmi site serve` would have to be given on the command line."""
        needed = ("address",) if self.insecure else ("address", "root_certificates", "key")
        return tuple(name for name in needed if getattr(self, name) is None)
