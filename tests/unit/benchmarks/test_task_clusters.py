"""The clusters of a partition, found again from its log."""

from array import array
from pathlib import Path

import numpy as np
import pytest

from benchmarks import task_clusters
from benchmarks.task_clusters import Clusters, find_clusters, latent_semantics, nearest
from specrouter_dist.align.embedding import latent_semantic, sparse_matrix
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.tasks.classifier import TaskClassifier
from specrouter_dist.tasks.features import FloatArray, Ngrams
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import TARGET, mixed, partition, prompts

MODEL = partition().model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TARGET)


@pytest.fixture(scope="module")
def log(tokenizer: Tokenizer) -> list[Prompt]:
    """What the partition was made of."""
    return prompts(tokenizer, mixed(40))


def test_prompts_of_the_log_and_others_have_the_cluster_that_was_learned(
    log: list[Prompt], tokenizer: Tokenizer
) -> None:
    clusters = find_clusters(MODEL, log, seed=0, embedding=None)
    classifier = TaskClassifier(MODEL)
    every = prompts(tokenizer, mixed(60))
    assert clusters.of(every) == [
        classifier.names[classifier.posterior(p.tokens).argmax()] for p in every
    ]
    assert set(clusters.of(log)) == set(classifier.names)


def test_the_embedding_is_that_of_tasks_fit(log: list[Prompt]) -> None:
    ngrams = Ngrams(len(MODEL.idf), MODEL.header.separators, MODEL.idf)
    matrix = sparse_matrix([ngrams.of(prompt.tokens) for prompt in log], len(MODEL.idf))
    found = latent_semantics(MODEL, log, 3)(log)
    np.testing.assert_allclose(found, latent_semantic(matrix, 3), atol=1e-5)


def test_another_log_is_refused(log: list[Prompt]) -> None:
    with pytest.raises(SystemExit, match="it was made of another log"):
        find_clusters(MODEL, [*log[:60], *log[:60:3]], seed=0, embedding=None)


def test_sentences_are_embedded_by_their_model(
    log: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {"def": 0, "Que": 1, "Tra": 2}

    def vectors(texts: list[str], directory: Path) -> FloatArray:
        assert directory == Path("model")
        return np.eye(3, dtype=np.float32)[[ends[text[:3]] for text in texts]]

    monkeypatch.setattr(task_clusters, "sentence_vectors", vectors)
    clusters = find_clusters(MODEL, log, seed=0, embedding=Path("model"))
    assert len({*clusters.of(log[:3])}) == 3
    assert clusters.of(log) == clusters.of(log[:3]) * 40


def test_the_nearest_centre_is_not_the_one_in_the_same_direction() -> None:
    centres = np.array([[1.0, 0.0], [0.1, 0.1]], np.float32)
    vectors = np.array([[0.3, 0.0], [0.9, 0.2]], np.float32)
    assert nearest(vectors, centres).tolist() == [1, 0]
    clusters = Clusters(("far", "near"), centres, lambda own: vectors[: len(own)])
    assert clusters.of([Prompt("a", array(TOKEN_TYPECODE))] * 2) == ["near", "far"]
