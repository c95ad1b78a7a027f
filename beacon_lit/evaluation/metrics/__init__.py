"""Metrics: pure functions (prediction, reference) -> 0..1 that tasks share."""

from beacon_lit.evaluation.metrics.classification import classification
from beacon_lit.evaluation.metrics.code_similarity import code_similarity
from beacon_lit.evaluation.metrics.exact_match import exact_match, substring_match
from beacon_lit.evaluation.metrics.numbers import number_share, paragraph_share
from beacon_lit.evaluation.metrics.qa_f1 import qa_f1, qa_f1_chinese, token_f1
from beacon_lit.evaluation.metrics.rouge import Rouge, rouge_l, rouge_l_chinese
from beacon_lit.evaluation.metrics.text import normalized, normalized_chinese

__all__ = [
    "Rouge",
    "classification",
    "code_similarity",
    "exact_match",
    "normalized",
    "normalized_chinese",
    "number_share",
    "paragraph_share",
    "qa_f1",
    "qa_f1_chinese",
    "rouge_l",
    "rouge_l_chinese",
    "substring_match",
    "token_f1",
]
