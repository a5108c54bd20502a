"""Batch jobs: generate or score over a corpus, with the same bytes on any number of machines."""

from gpt2rt.jobs.shard import generate_shard, score_shard

__all__ = ["generate_shard", "score_shard"]
