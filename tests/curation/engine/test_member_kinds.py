"""Kinds of members fit every record that was met, in any order of records and files."""

import itertools

import pytest

from curation.engine.member_kinds import MemberKinds, merged


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (['{"a": 1}', '{"a": null}'], "int64"),
        (['{"a": 1}', '{"a": 0.5}', "{}"], "double"),
        (['{"a": 1}', '{"a": true}'], "json"),
        (['{"a": "x"}', '{"a": {}}', '{"a": null}'], "json"),
        (['{"a": 9223372036854775808}'], "json"),
        (['{"a": NaN}'], "double"),
        (['{"a": null}'], "null"),
    ],
)
def test_kinds_do_not_depend_on_the_order(texts, kind):
    for order in itertools.permutations(texts):
        together, apart = MemberKinds(), []
        for text in order:
            together.add_text(text)
            alone = MemberKinds()
            alone.add_text(text)
            apart.append(alone.kinds)
        assert together.kinds == merged(apart) == {"a": kind}


def test_members_named_at_random_make_no_columns():
    assert merged({f"m{number}": "null"} for number in range(1001)) == {}
