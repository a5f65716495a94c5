"""Names of parameters and numbers in MLflow."""

from pipeline.report.tracking.schema import flat_numbers, flat_params


def test_names_of_params_and_numbers() -> None:
    sections = {
        "model": {"name": "vit", "pretrained": True, "options": {"depth": 6}},
        "train": {"epochs": 3, "strategy": {"name": "anneal"}, "penalty": {"lambda": 5.0}},
    }
    expected = {"model": "vit", "model.pretrained": "True", "model.depth": "6", "epochs": "3"}
    assert flat_params(sections) == expected | {"strategy": "anneal", "lambda": "5.0"}
    numbers = {"a": {"b": {"c": 1}}, "flag": True, "none": None, "text": "x", "list": [1]}
    assert flat_numbers(numbers) == {"a.b.c": 1.0, "flag": 1.0}
