"""The gate's error rates over 200 simulated retrainings, on answers whose true accuracy is known."""

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import gate_simulation
from pergola.components.evaluation.gate.gate import GateSettings


def test_drawn_models_have_the_stated_accuracy_and_err_together():
    labels, candidate, champion = next(gate_simulation.drawn(100_000, 0.03)(0, 1))
    right, other = candidate == labels, champion == labels
    assert right.mean() == pytest.approx(0.90, abs=0.005)
    assert other.mean() == pytest.approx(0.93, abs=0.005)
    assert np.corrcoef(right, other)[0, 1] > 0.3
    labels, candidate, _ = next(gate_simulation.drawn(100_000, -0.03)(0, 1))
    assert np.mean(candidate == labels) == pytest.approx(0.96, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("worse", [0.0, -0.03])
def test_gate_rejects_an_unchanged_model_no_oftener_than_stated(worse):
    case = gate_simulation.Case("unchanged", gate_simulation.drawn(262, worse), GateSettings())
    found = gate_simulation.simulate(case, runs=200)
    limit = binom.ppf(0.999, 200, GateSettings().significance / 2)
    assert 200 * found["rejected"]["share"] <= limit
    assert worse or 200 * found["called_better"]["share"] <= limit


@pytest.mark.slow
def test_gate_with_costs_rejects_an_unchanged_model_no_oftener_than_stated():
    """Two rules look at the champion then, each at half of the significance."""
    case = gate_simulation.Case(
        "costs", gate_simulation.drawn(262), GateSettings(), costs=gate_simulation.uneven()
    )
    found = gate_simulation.simulate(case, runs=200)
    assert 200 * found["rejected"]["share"] <= binom.ppf(0.999, 200, GateSettings().significance)


@pytest.mark.slow
def test_gate_that_wants_proof_accepts_a_model_at_the_margin_no_oftener_than_stated():
    settings = GateSettings(prove_not_worse=True, max_loss=0.02)
    case = gate_simulation.Case("at the margin", gate_simulation.drawn(1000, 0.02), settings)
    found = gate_simulation.simulate(case, runs=200)
    assert 200 * found["accepted"]["share"] <= binom.ppf(0.999, 200, settings.significance / 2)
