"""Topic retrieval, one concept per file."""

from beacon_lit.evaluation.tasks.topic.task import TopicRetrieval

__all__ = ["TopicRetrieval"]
