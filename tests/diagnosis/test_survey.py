"""The survey: the clients' counts over one codebook, whatever the method."""

from __future__ import annotations

from dataclasses import replace

import torch

from federations import gaussian_scenario, make_task, run
from fedgmi.data.rows import Client
from fedgmi.data.standardise import feature_sums, standardisation
from fedgmi.diagnosis.survey import merged_counts, take_survey
from fedgmi.methods import METHODS
from fedgmi.methods.fedgmi.schedule import survey

SCENARIO = gaussian_scenario(8, 40, separation=4.0)
FEDERATION = SCENARIO.federation
TASK = make_task(FEDERATION.schema)


def test_a_survey_counts_every_row_once():
    found = take_survey(TASK, FEDERATION.clients)
    assert found.histograms.sum(1).tolist() == [40] * 8
    assert bool(found.histograms.any(0).all())
    assert found.noise is None
    assert found.bytes_down > 0
    assert found.bytes_up > 0


def test_a_run_counts_the_same_words_as_a_survey():
    """So that nobody has to ask for them a second time."""
    method = METHODS["fedgmi"](TASK)
    server, _, _ = run(method, SCENARIO, rounds=1)
    counts = merged_counts(method.counts(server), FEDERATION.schema)
    assert torch.equal(counts, take_survey(TASK, FEDERATION.clients).histograms)
    begun = [step.name for step in method.program.prepare]
    rows = survey(TASK.settings).prepare
    counted = [row.step for row in rows if not row.binned]  # labels are classes here
    assert counted == begun[: len(counted)]


def test_a_survey_of_rows_to_be_standardised_is_that_of_standardised_rows():
    uneven = [replace(client, x=client.x * torch.arange(1, 9) + 3.0) for client in FEDERATION.clients]
    scale = standardisation(feature_sums(torch.cat([client.x for client in uneven])), FEDERATION.schema.features)
    scaled = [Client(client.name, scale.apply(client.x), client.y) for client in uneven]
    found = take_survey(TASK, uneven, standardise=True)
    assert torch.equal(found.histograms, take_survey(TASK, scaled).histograms)
    assert found.bytes_up > take_survey(TASK, uneven).bytes_up  # one step more


def test_a_survey_with_epsilon_says_what_noise_there_is():
    noisy = take_survey(make_task(FEDERATION.schema, epsilon=0.5), FEDERATION.clients)
    assert noisy.noise is not None
    assert noisy.noise.epsilon == 0.5
    assert int(noisy.noise.merged.sum()) == 5 * 2
    assert noisy.histograms.shape == (8, len(noisy.noise.merged))


def test_how_many_components_are_asked_for_changes_no_count():
    one, four = (take_survey(make_task(FEDERATION.schema, k), FEDERATION.clients) for k in (1, 4))
    assert torch.equal(one.histograms, four.histograms)
    assert (one.bytes_down, one.bytes_up) == (four.bytes_down, four.bytes_up)
