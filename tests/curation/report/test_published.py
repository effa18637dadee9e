"""Published figures stand beside ours only for the input that they belong to."""

import pytest
from pydantic import ValidationError

from curation.engine.recipe import Published
from curation.report.published import compare

PUBLISHED = {"what": "w", "sources": {"a": [1000, 0.5], "b": [200, 0.1]}, "overall": 0.4}


def figures(a=1000, b=200):
    sources = {"a": {"documents_in": a, "bytes_in": 4000}, "b": {"documents_in": b, "bytes_in": 1000}}
    removed = {"length": (100, 50), "exact": (1000, 0), "minhash": (500, 100)}
    stages = {name: {"by_source": {"a": {"removed_bytes": x}, "b": {"removed_bytes": y}}} for name, (x, y) in removed.items()}
    return sources, stages, ["exact", "minhash"]


@pytest.mark.parametrize(("a", "b"), [(1000, 200), (1010, 198), (990, 202)])
def test_within_one_per_cent_ours_are_bytes_of_duplicates_among_bytes_read(a, b):
    found = compare(PUBLISHED, *figures(a, b))
    assert found["comparable"]
    assert found["sources"]["a"] == {"removed_bytes_share": 0.5, "our_removed_bytes_share": 1500 / 4000}
    assert found["sources"]["b"] == {"removed_bytes_share": 0.1, "our_removed_bytes_share": 100 / 1000}
    assert found["overall"] == {"removed_bytes_share": 0.4, "our_removed_bytes_share": 1600 / 5000}


@pytest.mark.parametrize(("a", "b", "named"), [(1011, 200, "a has 1,011"), (989, 200, "a has 989"), (1000, 0, "b has 0")])
def test_any_source_of_another_size_makes_the_input_another_one(a, b, named):
    found = compare(PUBLISHED, *figures(a, b))
    assert not found["comparable"]
    assert named in found["why"]
    assert {entry["our_removed_bytes_share"] for entry in [*found["sources"].values(), found["overall"]]} == {None}


def test_a_source_that_is_not_there_makes_the_input_another_one():
    sources, stages, deduplications = figures()
    del sources["b"]
    assert not compare(PUBLISHED, sources, stages, deduplications)["comparable"]


def test_a_recipe_without_figures_has_none():
    assert compare(None, *figures()) is None


def test_shares_lie_between_0_and_1():
    with pytest.raises(ValidationError):
        Published(what="w", sources={"a": (10, 50.0)}, overall=0.5)
