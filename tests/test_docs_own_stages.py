"""The worked example of docs/own-stages.md does what the page says."""

import json
import re
from pathlib import Path

import pyarrow.dataset as ds

from curation.engine.progress import Progress
from curation.engine.recipe import load_recipe
from curation.engine.run import RunOptions, run_recipe

PAGE = (Path(__file__).parent.parent / "docs" / "own-stages.md").read_text()


def block(name: str, language: str) -> str:
    return re.search(rf"`{re.escape(name)}`:\n\n```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def page(link_lines: int, lines: int) -> str:
    return "".join(
        f"line {n} at https://example.org/{n}?sessionid=ab12\n" if n < link_lines else f"a line of plain words, number {n}\n"
        for n in range(lines)
    )


def test_the_example_removes_edits_and_adds_what_the_page_says(tmp_path):
    (tmp_path / "links.py").write_text(block("links.py", "python"))
    (tmp_path / "mine.yaml").write_text(block("mine.yaml", "yaml"))
    (tmp_path / "pages").mkdir()
    texts = [page(3, 4), page(2, 10), page(0, 7)]
    (tmp_path / "pages" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def run(**settings: object) -> dict[str, list[dict[str, object]]]:
        recipe = load_recipe(str(tmp_path / "mine.yaml"), str(tmp_path / "pages"), settings)
        output = tmp_path / f"out{len(settings)}"
        run_recipe(recipe, str(tmp_path / "pages"), str(output), RunOptions(executor="inline"), Progress(quiet=True))
        return {name: ds.dataset(output / name).to_table().to_pylist() for name in ("documents", "removed", "edited")}

    found = run()
    (gone,) = found["removed"]
    assert (gone["stage"], gone["reason"], gone["detail"]) == ("links", "mostly links", "0.75 of lines")
    assert [row["link_share"] for row in found["documents"]] == [0.2, 0.0]
    assert "sessionid" not in found["documents"][0]["text"]
    shorter = {row["id"]: row["characters_before"] - row["characters_after"] for row in found["edited"]}
    first, second = gone["id"], found["documents"][0]["id"]
    assert shorter == {first: 3 * len("?sessionid=ab12"), second: 2 * len("?sessionid=ab12")}
    assert run(**{"links.settings.maximum_share": 0.8})["removed"] == []
