"""Object stores and Hugging Face data sets: the same texts and decisions as plain local files."""

import http.server
import json
import shutil
import socket
import threading
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation import storage
from pipelines.main import app

STAGES = """\
stages:
  - normalize: {scheme: ftfy_nfc}
  - length: {minimum_characters: 200}
  - exact
  - minhash
output: {split: {validation: 0.1, test: 0.1}}
"""
FOLDERS = """\
name: small
sources:
  - {name: cc, path: "{input}/common_crawl/**/*.jsonl*"}
  - {name: c4, path: "{input}/c4/*.jsonl"}
  - {name: rest, path: "{input}/[gw]*/*.jsonl"}
"""
ONE_SOURCE = 'name: small\nsources:\n  - {name: web, path: "{input}%s", id: id%s}\n'
FORBIDDEN = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>\
<Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>"""


@pytest.fixture(scope="module")
def s3_settings():
    """The environment that leads to a local S3 server with an empty bucket."""
    pytest.importorskip("s3fs", minversion="2025.2")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    server.stop()


@pytest.fixture
def s3(s3_settings, monkeypatch):
    """A bucket of its own on the local S3 server."""
    import boto3
    import s3fs

    for name, value in {**s3_settings, "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def curate(tmp_path):
    """Runs the command on a recipe; (exit code, message)."""

    def run(content, input_path, output, *options):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(content)
        arguments = ["run", recipe, "--output", output, "--executor", "inline", *options]
        arguments += ["--input", input_path] if input_path else []
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        return result.exit_code, result.stderr

    return run


@pytest.fixture
def small_parts(monkeypatch):
    """Cut the small corpus into many units and parts."""
    import curation.engine.plan as plan
    import curation.engine.run as run

    monkeypatch.setattr(plan, "_UNIT_BYTES", (24_576, 24_576))
    monkeypatch.setattr(run, "PART_BYTES", 16_384)


def put_tree(folder, place):
    """Copy a local folder into a store."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{place}/{path.relative_to(folder)}", path.read_bytes())


def results(place):
    """The bytes of every file of the result, by name."""
    named = {storage.relative(info.path, str(place)): info.path for info in storage.list_files(str(place))}
    folders = ("documents", "removed", "duplicates", "quarantine")
    return {name: storage.read_bytes(path) for name, path in named.items() if name.split("/")[0] in folders}


def rows(place, name):
    files = [info.path for info in storage.list_files(f"{place}/{name}")]
    return [row for path in files for row in pq.read_table(pa.BufferReader(storage.read_bytes(path))).to_pylist()]


def report(place):
    return json.loads(storage.read_bytes(f"{place}/report.json"))


@pytest.fixture
def expected(corpus, curate, small_parts, tmp_path):
    """What a run over local files leaves, from an input with a bad record."""
    with (corpus / "c4" / "c4-train.00000.jsonl").open("ab") as file:
        file.write(b'{"text": null}\n')
    code, message = curate(FOLDERS + STAGES, corpus, tmp_path / "plain")
    assert code == 0, message
    found = results(tmp_path / "plain")
    counts = report(tmp_path / "plain")["documents"]
    assert min(counts.values()) > 0
    return found


def test_input_and_output_in_s3_give_the_bytes_of_local_files(expected, corpus, curate, s3):
    put_tree(corpus, f"{s3}/input")
    for _ in range(2):  # the second time there is nothing left to do
        code, message = curate(FOLDERS + STAGES, f"{s3}/input", f"{s3}/output")
        assert code == 0, message
        assert results(f"{s3}/output") == expected
    left = [info.path for info in storage.list_files(s3)]
    assert not [path for path in left if "/work/" in path or ".staging" in path]
    assert not storage.exists(f"{s3}/output/.lock")


def test_input_in_s3_alone_gives_the_bytes_of_local_files(expected, corpus, curate, s3, tmp_path):
    put_tree(corpus, f"{s3}/input")
    code, message = curate(FOLDERS + STAGES, f"{s3}/input/", tmp_path / "output")
    assert code == 0, message
    assert results(tmp_path / "output") == expected


def test_a_work_folder_in_s3_serves_too(expected, corpus, curate, s3):
    code, message = curate(FOLDERS + STAGES, corpus, f"{s3}/output", "--work", f"{s3}/scratch")
    assert code == 0, message
    assert results(f"{s3}/output") == expected
    assert storage.list_files(f"{s3}/scratch")


def test_ray_workers_read_and_write_s3_as_this_process_does(expected, corpus, curate, s3):
    put_tree(corpus, f"{s3}/input")
    code, message = curate(FOLDERS + STAGES, f"{s3}/input", f"{s3}/output", "--executor", "ray", "--workers", "1")
    assert code == 0, message
    assert results(f"{s3}/output") == expected


def test_an_object_that_was_replaced_or_added_is_read_and_the_others_are_not(corpus, curate, s3):
    put_tree(corpus, f"{s3}/input")
    assert curate(FOLDERS + STAGES, f"{s3}/input", f"{s3}/output")[0] == 0
    before = report(f"{s3}/output")
    storage.write_bytes(f"{s3}/input/wikipedia/wiki.jsonl", b'{"text": "%s"}\n' % (b"other words. " * 30))
    storage.write_bytes(f"{s3}/input/c4/another.jsonl", b'{"text": "%s"}\n' % (b"still others. " * 30))
    assert curate(FOLDERS + STAGES, f"{s3}/input", f"{s3}/output")[0] == 0
    after = report(f"{s3}/output")
    assert after["documents"]["in"] != before["documents"]["in"]
    assert after["tasks"]["reused"] >= 1
    texts = {row["text"] for row in rows(f"{s3}/output", "documents")}
    assert {("other words. " * 30), ("still others. " * 30)} <= texts


def test_input_and_output_in_memory_give_the_bytes_of_local_files(expected, corpus, curate):
    place = f"memory://{uuid.uuid4().hex}"
    put_tree(corpus, f"{place}/input")
    code, message = curate(FOLDERS + STAGES, f"{place}/input", f"{place}/output")
    assert code == 0, message
    assert results(f"{place}/output") == expected


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_dead_store_is_an_error_that_names_the_address(where, corpus, curate, s3, monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
    places = {"input": corpus, "output": tmp_path / "output", where: f"{s3}/{where}"}
    code, message = curate(FOLDERS + STAGES, places["input"], places["output"])
    assert code == 1
    assert f"{s3}/{where}" in message
    assert "the object store does not answer" in message
    assert "http://127.0.0.1" in message


def test_wrong_credentials_are_an_error_that_says_so(corpus, curate, s3, monkeypatch, tmp_path):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("Content-Length", str(len(FORBIDDEN)))
            self.end_headers()
            self.wfile.write(FORBIDDEN)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        code, message = curate(FOLDERS + STAGES, f"{s3}/input", tmp_path / "output")
    finally:
        server.shutdown()
        server.server_close()
    assert code == 1
    assert s3 in message and "Access Key Id you provided does not exist" in message


def test_missing_credentials_are_an_error_that_says_so(curate, s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    code, message = curate(FOLDERS + STAGES, f"{s3}/input", tmp_path / "output")
    assert code == 1
    assert s3 in message and "credentials" in message


def test_credentials_that_run_out_fail_the_run_and_cost_no_document(corpus, curate, s3, monkeypatch, tmp_path):
    import curation.engine.first_pass as first_pass

    put_tree(corpus, f"{s3}/input")
    monkeypatch.setattr(first_pass, "_SECONDS_BEFORE_RETRY", 0)
    with monkeypatch.context() as patch:

        def refuse(path, *_):
            raise PermissionError(13, "The provided token has expired", path)

        patch.setattr(storage, "open_stream", refuse)
        code, message = curate(FOLDERS + STAGES, f"{s3}/input", tmp_path / "output")
    assert code == 1
    assert "token has expired" in message
    assert curate(FOLDERS + STAGES, f"{s3}/input", tmp_path / "output")[0] == 0
    assert report(tmp_path / "output")["documents"]["quarantined"] == 0


# Hugging Face data sets


@pytest.fixture
def records(corpus):
    """The records of the corpus in one list, each with an id."""
    found = []
    for path in sorted(corpus.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            number = len(found)
            found.append({"id": f"d{number}", "text": json.loads(line)["text"], "meta": {"url": f"http://{number}"}})
    return found


@pytest.fixture
def plain(records, curate, tmp_path):
    """Documents and removals of a run over the records as JSON lines."""
    folder = tmp_path / "lines"
    folder.mkdir()
    lines = [json.dumps(record, separators=(",", ":"), ensure_ascii=False) for record in records]
    (folder / "a.jsonl").write_text("\n".join(lines))
    code, message = curate(ONE_SOURCE % ("/*.jsonl", "") + STAGES, folder, tmp_path / "plain")
    assert code == 0, message
    return decisions(tmp_path / "plain")


def decisions(place):
    """Everything but ranks, which follow from files: documents and removals."""
    kept = [{**row, "rank": None, "source": None} for row in rows(place, "documents")]
    removed = [{**row, "source": None} for row in rows(place, "removed")]
    assert kept and removed
    return kept, sorted(removed, key=lambda row: row["id"])


@pytest.fixture
def saved(records, tmp_path):
    """The records as `save_to_disk` leaves them, in two shards."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    return tmp_path / "saved"


@pytest.mark.parametrize("streaming", ["false", "true"])
@pytest.mark.parametrize("unit_bytes", [None, 8192])
def test_a_data_set_mapped_or_streamed_gives_what_plain_files_give(
    plain, saved, curate, tmp_path, streaming, unit_bytes, monkeypatch
):
    if unit_bytes:
        monkeypatch.setattr("curation.engine.plan._UNIT_BYTES", (unit_bytes, unit_bytes))
    recipe = ONE_SOURCE % ("", f", format: huggingface, streaming: {streaming}") + STAGES
    for _ in range(2):
        code, message = curate(recipe, saved, tmp_path / "out")
        assert code == 0, message
        assert decisions(tmp_path / "out") == plain
    assert (tmp_path / "out" / "work" / "spool").exists() == (streaming == "true")


def test_a_folder_of_a_data_set_needs_no_recipe_of_its_own(plain, saved, curate, tmp_path):
    code, message = curate(ONE_SOURCE % ("/c4/*", "") + STAGES, saved, tmp_path / "out")
    assert code == 0, message
    assert decisions(tmp_path / "out") == plain
    assert list(report(tmp_path / "out")["sources"]) == ["saved"]
    assert report(tmp_path / "out")["unmatched"] == []


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_split_is_read_alone_when_named_and_all_of_a_folder_that_is_given(records, curate, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    splits = {"train": records[:40], "test": records[40:]}
    made = {name: datasets.Dataset.from_list(some) for name, some in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    recipe = ONE_SOURCE % ("", f", format: huggingface, split: test, streaming: {streaming}") + STAGES
    code, message = curate(recipe, tmp_path / "saved", tmp_path / "out")
    assert code == 0, message
    assert report(tmp_path / "out")["documents"]["in"] == len(records) - 40
    code, message = curate(ONE_SOURCE % ("/c4/*", "") + STAGES, tmp_path / "saved", tmp_path / "whole")
    assert code == 0, message
    assert report(tmp_path / "whole")["documents"]["in"] == len(records)
    recipe = ONE_SOURCE % ("", f", format: huggingface, streaming: {streaming}") + STAGES
    code, message = curate(recipe, tmp_path / "saved", tmp_path / "unclear")
    assert code == 2 or streaming == "true"
    assert code != 0 and "choose one with `split: " in message


def test_a_limit_copies_no_more_of_a_stream_than_it_needs(records, curate, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": [f"document {n} " * 30 for n in range(3000)]}).save_to_disk(str(tmp_path / "saved"))
    recipe = (ONE_SOURCE % ("", ", format: huggingface, streaming: true") + STAGES).replace("id: id, ", "")
    code, message = curate(recipe, tmp_path / "saved", tmp_path / "out", "--limit", "50")
    assert code == 0, message
    assert report(tmp_path / "out")["documents"]["in"] == 50
    (file,) = (tmp_path / "out" / "work" / "spool").rglob("*.parquet")
    assert pq.read_metadata(file).num_rows == 1055


def test_a_stream_that_breaks_off_is_copied_anew_by_the_same_command(plain, saved, curate, tmp_path, monkeypatch):
    from curation.formats import huggingface

    recipe = ONE_SOURCE % ("", ", format: huggingface, streaming: true") + STAGES
    with monkeypatch.context() as patch:

        def broken(*_):
            yield pa.table({"text": ["a"]})
            raise ConnectionError("the hub is gone")

        patch.setattr(huggingface, "_stream", broken)
        code, message = curate(recipe, saved, tmp_path / "out")
    assert code == 1
    assert "the hub is gone" in message
    code, message = curate(recipe, saved, tmp_path / "out")
    assert code == 0, message
    assert decisions(tmp_path / "out") == plain


def test_a_plan_names_what_is_streamed_and_copies_nothing(saved, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ONE_SOURCE % ("", ", format: huggingface, streaming: true") + STAGES)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["plan", str(recipe), "--input", str(saved)])
    assert result.exit_code == 0, result.output
    assert "web is streamed" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_split_and_streaming_belong_to_data_sets(curate, tmp_path):
    code, message = curate(ONE_SOURCE % ("/*", ", streaming: true") + STAGES, tmp_path, tmp_path / "out")
    assert code == 2
    assert "`format: huggingface`" in message


# What the hub's loader of RedPajama yields

SUBSETS = ("common_crawl", "c4", "arxiv")


def hub_records(corpus):
    """Records as the hub's loader makes them: the set beside the text, `meta` a string."""
    found = []
    for path in sorted(corpus.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            meta = json.dumps({"url": f"http://example.org/{len(found)}", "language": "en"})
            subset = SUBSETS[len(found) % len(SUBSETS)]
            found.append({"text": json.loads(line)["text"], "meta": meta, "red_pajama_subset": subset})
    return found


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "parquet", "saved"])
def test_what_the_hubs_loader_of_redpajama_yields_is_split_by_its_sets(corpus, curate, tmp_path, form):
    found = hub_records(corpus)
    shutil.rmtree(corpus)
    folder = tmp_path / "hub"
    folder.mkdir()
    if form == "saved":
        pytest.importorskip("datasets").Dataset.from_list(found).save_to_disk(str(folder))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(found[:50]), folder / "a.parquet")
        pq.write_table(pa.Table.from_pylist(found[50:]), folder / "b.parquet")
    else:
        (folder / "0-empty.jsonl").write_bytes(b"")
        lines = "".join(json.dumps(record) + "\n" for record in found).encode()
        if form == "jsonl.zst":
            import zstandard

            lines = zstandard.ZstdCompressor().compress(lines)
        (folder / f"a.{form}").write_bytes(lines)
    code, message = curate(FOLDERS + STAGES, folder, tmp_path / "out")
    assert code == 0, message
    sources = report(tmp_path / "out")["sources"]
    by_set = {name: entry["documents_in"] for name, entry in sources.items() if entry["documents_in"]}
    assert by_set == {name: sum(r["red_pajama_subset"] == name for r in found) for name in SUBSETS}
    kept = rows(tmp_path / "out", "documents")
    by_url = {json.loads(record["meta"])["url"]: record for record in found}
    assert kept
    for row in kept:
        record = by_url[row["url"]]
        assert row["source"] == record["red_pajama_subset"]
        assert row["language"] == "en"
        assert json.loads(row["meta"]) == {"meta": record["meta"], "red_pajama_subset": row["source"]}
