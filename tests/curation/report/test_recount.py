"""Every count of report.json, counted again with DuckDB from the tables that a run leaves."""

import copy
import json
import random

import duckdb
import pytest

SETS = ["RedPajamaC4", "RedPajamaGithub", "RedPajamaBook"]
REST = "max_bad_fraction: 0.9\noutput: {format: %s, split: {validation: 0.2, test: 0.1}}\n"
SOURCES = """\
  - {name: web, path: "{input}/web/**", by: meta.set}
  - {name: books, path: "{input}/books/**"}
"""
STAGES = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash: {%s}
"""
OWN_STAGE = """
from curation.stages import MapResult

def own(documents):
    texts = documents["text"].to_pylist()
    if any("river7" in text for text in texts):
        raise ValueError("a river")
    goes = ["stone" in text and len(text) % 3 == 0 for text in texts]
    reasons = [f"a stone of {len(text) % 2}" if gone else None for text, gone in zip(texts, goes)]
    return MapResult(removed=goes, reason=reasons, texts=[text.replace("copper", "tin") for text in texts])
"""
# Members of report.json whose integers have to follow from the tables; others are of the run itself: time, memory, tasks.
COUNTED = ("documents", "bytes", "stages", "sources", "splits", "quarantine", "edited", "sample", "output_files", "output_bytes")
# What no table of the results tells: comparisons with documents that stay, thresholds, similarities of whole texts.
NOT_IN_TABLES = {"candidate_component_sizes", "past_limit", "measure", "measured", "below_threshold", "histogram"}
SAMPLED = ("documents_in", "documents_kept", "bytes_in", "bytes_kept")


def leaves(value, path=()):
    """(path, integer) of all integers in nested JSON."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if key not in NOT_IN_TABLES:
                yield from leaves(inner, (*path, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def counted_leaves(report):
    return dict(leaves({name: report[name] for name in COUNTED}))


class Recount:
    """The tables of one run in DuckDB: kept(id, source, split, bytes), removed, quarantine, edited, duplicates."""

    def __init__(self, folder, report):
        self.folder, self.report = folder, report
        self.recipe = json.loads((folder / "run.json").read_text())["recipe"]
        self.database = duckdb.connect()
        for name in ("removed", "duplicates", "quarantine", "edited"):
            self.database.execute(f"CREATE TABLE {name} AS FROM read_parquet('{folder}/{name}/*.parquet')")
        columns = "filename.split('/')[-2] AS split, strlen(text) AS bytes"
        if self.recipe["output"]["format"] == "parquet":
            read = f"SELECT *, {columns} FROM read_parquet('{folder}/documents/*/*.parquet', filename = true)"
        else:
            # A line has the id and the members of the input: a source that is split by a value has that value for its name.
            members = "columns = {id: 'VARCHAR', text: 'VARCHAR', meta: 'JSON'}, filename = true, compression = 'zstd'"
            source = "coalesce(meta ->> 'set', id.split('/')[1])"
            read = f"SELECT *, {source} AS source, {columns} FROM read_json('{folder}/documents/*/*.zst', {members})"
        self.database.execute(f"CREATE TABLE kept AS {read}")
        self.database.execute("CREATE VIEW read AS SELECT id, source FROM kept UNION ALL SELECT id, source FROM removed")

    def rows(self, query):
        return self.database.execute(query).fetchall()

    def totals(self, table, *keys):
        """{(key, ...): (documents, bytes)} of kept or removed."""
        size = "bytes" if table == "kept" else "text_bytes"
        names = "".join(f"{key}, " for key in keys)
        rows = self.rows(f"SELECT {names} count(*), coalesce(sum({size}), 0)::BIGINT FROM {table} GROUP BY ALL")
        return {tuple(row[: len(keys)]): tuple(row[len(keys) :]) for row in rows}

    def count(self):
        """What the counted members of report.json have to be, with the keys that they have there."""
        kept, removed = self.totals("kept", "source"), self.totals("removed", "source")
        lost = dict(self.rows("SELECT source, count(*) FROM quarantine GROUP BY ALL"))
        sources = {
            name: {
                "documents_in": kept.get((name,), (0, 0))[0] + removed.get((name,), (0, 0))[0] + lost.get(name, 0),
                "bytes_in": kept.get((name,), (0, 0))[1] + removed.get((name,), (0, 0))[1],
                "kept_documents": kept.get((name,), (0, 0))[0],
                "kept_bytes": kept.get((name,), (0, 0))[1],
                "removed_documents": removed.get((name,), (0, 0))[0],
                "removed_bytes": removed.get((name,), (0, 0))[1],
                "quarantined_records": lost.get(name, 0),
            }
            for name in {*self.report["sources"], *(name for (name,) in [*kept, *removed]), *lost}
        }
        total = {key: sum(entry[key] for entry in sources.values()) for key in next(iter(sources.values()))}
        size = "SELECT count(*), coalesce(sum(octet_length(bytes)), 0)::BIGINT FROM quarantine"
        ((records, lost_bytes),) = self.rows(size)
        reasons = "SELECT split_part(reason, ':', 1), count(*) FROM quarantine GROUP BY ALL"
        files = [path for name in ("documents", "removed", "duplicates", "edited", "quarantine") for path in self.files(name)]
        counted = {
            "documents": {
                "in": total["documents_in"],
                "kept": total["kept_documents"],
                "removed": total["removed_documents"],
                "quarantined": total["quarantined_records"],
            },
            "bytes": {"in": total["bytes_in"], "kept": total["kept_bytes"], "removed": total["removed_bytes"]},
            "sources": sources,
            "splits": {
                split: dict(zip(("documents", "bytes"), self.totals("kept", "split").get((split,), (0, 0)), strict=True))
                for split in ("train", "validation", "test")
            },
            "quarantine": {
                "records": records,
                "lost_bytes": lost_bytes,  # whole records, so long as no file breaks off
                "by_source": lost,
                "by_reason": dict(self.rows(reasons)),
            },
            "stages": self.stages(sources),
            "output_files": len(files),
            "output_bytes": sum(path.stat().st_size for path in files),
        }
        counted |= {"edited": {"documents": self.edited()}, "sample": self.sample()}
        return dict(leaves(counted))

    def sample(self):
        """The sample's mix of languages and domains, as the page shows it: those that few have are one."""
        self.database.execute(f"CREATE OR REPLACE VIEW sample AS FROM read_parquet('{self.folder}/samples/documents.parquet')")
        found = {"documents": self.rows("SELECT count(*) FROM sample")[0][0]}
        for column in ("language", "domain"):
            named = self.report["sample"][f"{column}s"]
            found[f"{column}s"] = {}
            query = f"""
                SELECT coalesce({column}, 'unknown'), count(*), count(*) FILTER (stage IS NULL), sum(text_bytes)::BIGINT,
                    coalesce(sum(text_bytes) FILTER (stage IS NULL), 0)::BIGINT FROM sample GROUP BY 1
            """
            for value, *counts in self.rows(query):
                entry = found[f"{column}s"].setdefault(value if value in named else "other", dict.fromkeys(SAMPLED, 0))
                for key, n in zip(SAMPLED, counts, strict=True):
                    entry[key] += n
        return found

    def files(self, name):
        return [path for path in (self.folder / name).rglob("*") if path.is_file()]

    def edited(self, where="true"):
        return self.rows(f"SELECT count(DISTINCT id) FROM edited WHERE {where}")[0][0]

    def stages(self, sources):
        """What came to each stage is what it and later ones remove or fail on, and what stays."""
        kept, removed = self.totals("kept", "source"), self.totals("removed", "stage", "source")
        names = [stage["name"] for stage in self.recipe["stages"]]
        failures = "SELECT split_part(reason, ':', 1), source, count(*) FROM quarantine WHERE id IS NOT NULL GROUP BY ALL"
        failed = {(stage, source): n for stage, source, n in self.rows(failures)}
        found = {}
        for index, name in enumerate(names):
            by_source = {}
            for source in sources:
                ahead = [kept.get((source,), (0, 0)), *(removed.get((later, source), (0, 0)) for later in names[index:])]
                gone = removed.get((name, source), (0, 0))
                by_source[source] = {
                    "documents_in": sum(documents for documents, _ in ahead)
                    + sum(failed.get((later, source), 0) for later in names[index:]),
                    "bytes_in": sum(n_bytes for _, n_bytes in ahead),
                    "removed_documents": gone[0],
                    "removed_bytes": gone[1],
                    "quarantined_documents": failed.get((name, source), 0),
                }
            keys = ("documents_in", "bytes_in", "removed_documents", "removed_bytes", "quarantined_documents")
            found[name] = {key: sum(entry[key] for entry in by_source.values()) for key in keys} | {"by_source": by_source}
            found[name] |= self.details(name)
        return found

    def details(self, name):
        """Members that only some stages have."""
        reported = self.report["stages"][name]
        reasons = self.totals(f"(FROM removed WHERE stage = '{name}')", "reason")
        found = {
            "reasons": {reason: {"documents": n, "bytes": size} for (reason,), (n, size) in reasons.items()},
            "edited_documents": self.edited(f"stage = '{name}'"),
        }
        if "matrix" not in reported:
            return found
        if "annotated_documents" in reported:
            found["annotated_documents"] = self.rows("SELECT count(*) FROM kept WHERE NOT is_kept")[0][0]
            sizes = """
                SELECT first.id AS copy, count(*) AS size
                FROM kept one JOIN kept first ON one.component = first.rank GROUP BY ALL HAVING size > 1
            """
            pairs = """
                SELECT gone.source AS gone, first.source AS copy, count(*) AS n, sum(gone.bytes)::BIGINT AS size
                FROM kept gone JOIN kept first ON gone.component = first.rank WHERE NOT gone.is_kept GROUP BY ALL
            """
        else:
            sizes = f"SELECT duplicate_of AS copy, count(*) + 1 AS size FROM removed WHERE stage = '{name}' GROUP BY ALL"
            pairs = f"""
                SELECT gone.source AS gone, read.source AS copy, count(*) AS n, sum(gone.text_bytes)::BIGINT AS size
                FROM removed gone JOIN read ON gone.duplicate_of = read.id WHERE gone.stage = '{name}' GROUP BY ALL
            """
        found["component_sizes"] = {
            str(size): n for size, n in self.rows(f"SELECT size, count(*) FROM ({sizes}) GROUP BY ALL")
        }
        shown = len(reported["largest_components"])
        largest = self.rows(f"SELECT size FROM ({sizes}) ORDER BY size DESC LIMIT {shown}")
        found["largest_components"] = [{"documents": size} for (size,) in largest]
        copies = dict(self.rows(sizes))
        found["clusters"] = [{"documents": copies[one["duplicate_of"]]} for one in reported.get("clusters", [])]
        if "sampled_pairs" in reported:
            found["sampled_pairs"] = {"pairs": min(200, sum(size - 1 for size in copies.values()))}
        # The same rows as in the report, in its order.
        by_pair = {(gone, kept): (n, size) for gone, kept, n, size in self.rows(f"FROM ({pairs})")}
        order = [(gone, kept) for gone, kept, *_ in reported["matrix"]]
        assert sorted(order) == sorted(by_pair)
        found["matrix"] = [["", "", *by_pair[pair]] for pair in order]
        return found


def differences(report, counted):
    """Paths whose integers are not the same in report.json and in the recount, or only in one of them."""
    reported = {path: n for path, n in counted_leaves(report).items() if "first" not in path[:2]}
    return {path for path in reported.keys() | counted.keys() if reported.get(path) != counted.get(path)}


def write_input(bench, mixed_texts, layout):
    texts = mixed_texts(11, 90)
    names = random.Random(1)
    if layout == "slimpajama":
        half = len(texts) // 2
        for number, some in enumerate((texts[:half], texts[half:])):
            meta = [{"meta": {"redpajama_set_name": names.choice(SETS)}} for _ in some]
            bench.write(f"train/chunk1/{number}.jsonl.zst", some, meta)
        bench.write("train/chunk2/bad.jsonl", ["good enough to be kept, since it has more than two hundred characters. " * 4])
        bad = bench.input / "train" / "chunk2" / "bad.jsonl"
    else:
        third = len(texts) // 3
        bench.write("web/1.jsonl", texts[:third], [{"meta": {"set": names.choice("xyz")}} for _ in texts[:third]])
        bench.write("web/2.jsonl.zst", texts[third : 2 * third], [{"meta": {"set": names.choice("wx")}} for _ in texts[:third]])
        bench.write("books/1.jsonl", texts[2 * third :])
        bad = bench.input / "books" / "1.jsonl"
    with bad.open("a") as file:
        file.write('{"text": "never closed\n{"no text": 1}\n{"text": 7}\n[1]\n')


RUNS = {
    "slimpajama": ("slimpajama", "slimpajama", {"max_bad_fraction": 0.9}),
    "verified": ("slimpajama", "slimpajama-verified", {"max_bad_fraction": 0.9, "minhash.threshold": 0.7}),
    "released": ("slimpajama", "slimpajama-released", {"max_bad_fraction": 0.9}),
    "by and splits": ("sources", ("", "parquet"), {}),
    "JSON lines": ("sources", ("", "jsonl.zst"), {}),
    "annotated": ("sources", ("action: annotate", "parquet"), {}),
    "own stage": ("own stage", "", {}),
    "longest stays": ("sources", ("keep: [longest, first]", "parquet"), {}),
}


@pytest.fixture(scope="module", params=RUNS, ids=str)
def run(request, make_bench, mixed_texts, tmp_path_factory):
    """(report, recount) of a run."""
    layout, recipe, settings = RUNS[request.param]
    bench = make_bench(tmp_path_factory.mktemp("recount"))
    write_input(bench, mixed_texts, layout)
    if layout == "sources":
        recipe = bench.recipe(STAGES % recipe[0], SOURCES, REST % recipe[1])
    elif layout == "own stage":
        (bench.folder / "own.py").write_text(OWN_STAGE)
        recipe = bench.recipe(STAGES % "" + "  - python: {as: own, file: own.py, function: own}\n", SOURCES, REST % "parquet")
    bench.run("out", recipe, settings)
    report = json.loads((bench.folder / "out" / "report.json").read_text())
    return report, Recount(bench.folder / "out", report)


def test_every_count_of_the_report_is_counted_again_from_the_tables(run):
    report, recount = run
    assert report["documents"]["removed"] > 20 and report["documents"]["quarantined"] >= 4
    assert differences(report, recount.count()) == set()


def test_a_change_of_any_one_count_is_found(run):
    report, recount = run
    counted = recount.count()
    paths = [path for path in counted_leaves(report) if "first" not in path[:2]]
    assert len(paths) > 80
    for path in paths:
        changed = copy.deepcopy(report)
        place = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] += 1
        assert differences(changed, counted) == {path}


def test_what_came_is_what_stayed_was_removed_or_could_not_be_read_at_every_stage_and_source(run):
    report, _ = run
    for entry in report["sources"].values():
        assert entry["documents_in"] == entry["kept_documents"] + entry["removed_documents"] + entry["quarantined_records"]
        assert entry["bytes_in"] == entry["kept_bytes"] + entry["removed_bytes"]
    stages = report["stages"].values()
    failed = {name: sum(stage["by_source"][name]["quarantined_documents"] for stage in stages) for name in report["sources"]}
    left = {name: entry["documents_in"] - entry["quarantined_records"] + failed[name] for name, entry in report["sources"].items()}
    for stage in stages:
        assert {name: entry["documents_in"] for name, entry in stage["by_source"].items()} == left
        gone = {name: one["removed_documents"] + one["quarantined_documents"] for name, one in stage["by_source"].items()}
        left = {name: n - gone[name] for name, n in left.items()}
        assert stage["documents_in"] - stage["removed_documents"] - stage["quarantined_documents"] == sum(left.values())
    assert left == {name: entry["kept_documents"] for name, entry in report["sources"].items()}


def test_duplicates_hold_the_pairs_of_removed_by_the_kept_id(run):
    _, recount = run
    pairs = "SELECT duplicate_of, id, stage FROM {}"
    of_removed, of_duplicates = pairs.format("removed WHERE duplicate_of IS NOT NULL"), pairs.format("duplicates")
    assert recount.rows(f"({of_removed} EXCEPT ALL {of_duplicates}) UNION ALL ({of_duplicates} EXCEPT ALL {of_removed})") == []
