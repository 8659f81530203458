"""What rests on pretrained weights says so beside its figures."""

from __future__ import annotations

import dataclasses

import pytest
from test_chosen import run

from apl.features.catalog import seen_by
from apl.report.results import results_table
from apl.report.study import studies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "weights", "said"),
    [
        ("none", "", ""),
        ("lite0", "", "pretrained on ImageNet"),
        ("timm:vit_tiny", "", "pretrained on ImageNet or as its weights say"),
        ("tfidf", "", "not pretrained"),
        ("none", "default", "began with its published weights, pretrained on ImageNet"),
    ],
)
def test_a_table_says_what_it_rests_on(features: str, weights: str, said: str) -> None:
    assert said in seen_by(features, "torchvision:resnet18", weights)
    found = run("ce", 0, 0.7, 0.9)
    network = "linear" if features != "none" else "torchvision:resnet18"
    config = dataclasses.replace(found.config, features=features, weights=weights, network=network)
    (study,) = studies([found._replace(config=config)], [])
    assert said in study.caption
    assert said in results_table([study])
    assert ("ImageNet" in study.caption) is ("ImageNet" in said)
