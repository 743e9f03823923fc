"""`fedgmi diagnose`, from config to results folder: clients are asked for word counts, and nothing is trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.diagnosis.diagnose import diagnose
from fedgmi.diagnosis.survey import Survey, take_survey
from fedgmi.errors import ConfigError
from fedgmi.modes import own_modes
from fedgmi.runs.components import count_components, lost_words
from fedgmi.runs.config import Config, dump, refuse_compare
from fedgmi.runs.evaluation import proportion_errors
from fedgmi.runs.records import DiagnosisRecord
from fedgmi.runs.setup import Setup, choose_device
from fedgmi.storage import files, folder

LEVEL = 0.9  # of the intervals


def run(config: Config, out: Path) -> dict[str, Any]:
    """Diagnose the federation; `out` then holds `diagnosis.json` beside the config.

    Args:
        config: `method.n_components` is the number of components to test; where it is unset or "auto", the estimated
            one. All clients are asked, `evaluation.unseen_clients` included.
        out: A new results folder.

    Returns:
        What `diagnosis.json` holds.

    Raises:
        UserError: Where the settings, the data or the folder do not allow it. Earlier results stay untouched.
    """
    refuse_compare(config)
    own = config.method.model_dump()
    if own.get("epsilon") is not None:
        raise ConfigError(
            "intervals and the test for a mixture are made for exact counts, and would take the noise for the clients'",
            where="method.epsilon",
            fix='unset it where exact counts may be sent; n_components = "auto" takes counts with noise',
        )
    folder.claim(out, resume=False)
    with own_modes(config.threads):
        return _run(config, out)


def _run(config: Config, out: Path) -> dict[str, Any]:
    """The diagnosis, in a folder that is empty."""
    device = choose_device(config.device)
    scenario = build_scenario(config.data, config.scenario, config.seed)
    federation = scenario.federation
    setup = Setup(config, federation.schema, 1, wants_scale(config.data, config.scenario, federation.schema))
    asked = None
    if config.method.n_components not in (None, "auto"):
        asked = count_components(config, setup, federation.clients, device).n_components
    survey = take_survey(setup.task("fedgmi"), federation.clients, standardise=setup.standardise, device=device)
    began = time.perf_counter()
    found = diagnose(survey.histograms, n_components=asked, seed=config.seed, level=LEVEL, cells=survey.cells)
    errors, order = proportion_errors(found.topics.proportions, scenario)
    found = found if order is None else found.in_order(order)  # as `fedgmi run` numbers them
    record = found.to_json() | {"n_components_estimated": asked is None, "interval_level": LEVEL}
    record["warnings"] += lost_words(survey.lost)
    record |= context(config, scenario, survey) | {"seconds": survey.seconds + time.perf_counter() - began}
    written = DiagnosisRecord.write(out, record | truth(scenario, errors["proportion_tv"]))
    files.write_text(out / folder.CONFIG, dump(config))
    return written


def context(config: Config, scenario: Scenario, survey: Survey) -> dict[str, Any]:
    """Whose diagnosis it is, and what it cost."""
    return {
        "scenario": config.scenario.name,
        "seed": config.seed,
        "clients": list(scenario.federation.names),
        "rows_per_client": [len(client) for client in scenario.federation.clients],
        "bytes_down": survey.bytes_down,
        "bytes_up": survey.bytes_up,
    }


def truth(scenario: Scenario, error: float | None) -> dict[str, Any]:
    """How many components there are in truth, and how far the proportions are off; None where nobody knows."""
    n_components = None if scenario.truth is None else scenario.truth.n_components
    return {"true_n_components": n_components, "proportion_tv": error}
