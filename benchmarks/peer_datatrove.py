"""datatrove's MinHash deduplication: .venv-datatrove/bin/python benchmarks/peer_datatrove.py INPUT OUTPUT

The four stages of its examples (signatures, buckets, clusters, filter) on the local executor, with the defaults of
`MinhashConfig`: word 5-grams, 14 buckets of 8 hashes of 64 bits. Their token counter is left out: it would download a
tokenizer, and take time that has nothing to do with duplicates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.typeshelper import Languages


def main() -> None:
    """Run the four stages, each after the one before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=0, help="tasks of the stages that read the input; 0: one a file")
    options = parser.parse_args()
    config = MinhashConfig()
    reader = JsonlReader(str(options.input), glob_pattern="**/*.jsonl.zst")
    # datatrove splits no file, so that more tasks than files would idle; with fewer, one worker may wait for the other.
    n_tasks = options.tasks or len(list(options.input.rglob("*.jsonl.zst")))
    base = options.output

    def stage(name: str, pipeline: list, tasks: int) -> None:
        executor = LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=options.workers, logging_dir=str(base / "logs" / name)
        )
        executor.run()

    signatures = MinhashDedupSignature(str(base / "signatures"), config=config, language=Languages.english)
    stage("signatures", [reader, signatures], n_tasks)
    buckets = MinhashDedupBuckets(str(base / "signatures"), str(base / "buckets"), config=config)
    stage("buckets", [buckets], config.num_buckets)
    clusters = MinhashDedupCluster(str(base / "buckets"), str(base / "remove_ids"), config=config)
    stage("clusters", [clusters], 1)
    removed = JsonlWriter(str(base / "removed"))
    kept = JsonlWriter(str(base / "deduplicated_output"))
    filtering = MinhashDedupFilter(str(base / "remove_ids"), exclusion_writer=removed)
    stage("filter", [reader, filtering, kept], n_tasks)


if __name__ == "__main__":
    main()
