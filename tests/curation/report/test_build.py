"""What report.json offers to run is safe to paste."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from curation.report.build import open_command


def test_the_command_that_opens_a_result_survives_quotes_in_the_folder(tmp_path):
    folder = tmp_path / "it's \"{odd}\" $(touch made)"
    (folder / "documents/train").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["seen"]}), folder / "documents/train/train-00000.parquet")
    command = open_command(str(folder), "parquet")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "seen" in done.stdout
    assert sys.executable in open_command("x", "parquet")
    assert not (tmp_path / "made").exists()
