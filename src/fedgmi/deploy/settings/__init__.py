"""The two files of a deployment: `federation.toml`, the same for all, and `site.toml`, each site's own."""

from fedgmi.deploy.settings.federation import FederationSettings
from fedgmi.deploy.settings.reading import named, read, read_rows
from fedgmi.deploy.settings.refusals import LEAST_MASKED, SLOTS, too_many
from fedgmi.deploy.settings.rows import RowSettings, also_private
from fedgmi.deploy.settings.site import SiteSettings, check_limits, tells_metrics

__all__ = [
    "LEAST_MASKED",
    "SLOTS",
    "FederationSettings",
    "RowSettings",
    "SiteSettings",
    "also_private",
    "check_limits",
    "named",
    "read",
    "read_rows",
    "tells_metrics",
    "too_many",
]
