"""Scores against references that share no code with ours: scikit-learn on the predicted masks, and arithmetic by hand."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from hypercolumns.errors import SpecError
from tasks.evaluate import load_evaluation, protocol_line
from tests.factories import CLASS_NAMES, write_folder
from tests.pipeline_factory import read_picture, run_tasks, tiny_spec


def truths(spec, split="val"):
    """Read the masks of a split, at their own size, as they are on disk."""
    return [read_picture(path) for path in sorted(Path(spec.dataset.root, "masks", split).glob("*.png"))]


def reference_scores(truth, predicted):
    """Score labelled pixels with scikit-learn; every class is present in the truth."""
    recalls = recall_score(truth, predicted, labels=range(4), average=None, zero_division=0)
    ius = jaccard_score(truth, predicted, labels=range(4), average=None, zero_division=0)
    weights = np.bincount(truth, minlength=4) / len(truth)
    return {
        "pixel_accuracy": accuracy_score(truth, predicted),
        "mean_accuracy": recalls.mean(),
        "mean_iu": ius.mean(),
        "frequency_weighted_iu": (weights * ius).sum(),
        "per_class_iu": dict(zip(CLASS_NAMES, ius, strict=True)),
    }


def labelled(truth_masks, predicted_masks):
    """Concatenate the pixels that are not void."""
    pairs = [(truth[truth != 255], found[truth != 255]) for truth, found in zip(truth_masks, predicted_masks, strict=True)]
    return tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True))


def test_the_model_s_metrics_equal_scikit_learn_s_on_its_predicted_masks(outcome):
    _, predictions, description = load_evaluation(outcome.evaluated.path)
    assert sorted(predictions) == [0, 1, 2], "all three images are shown, so that all predictions are kept"
    truth, predicted = labelled(truths(outcome.job.spec), [predictions[index] for index in range(3)])
    expected = reference_scores(truth, predicted)
    metrics = outcome.evaluated.metrics
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-12), name
    assert metrics["per_class_iu"] == pytest.approx(expected["per_class_iu"], abs=1e-12)
    assert description["images"] == metrics["images"] == 3
    for name, (low, high) in metrics["intervals"].items():
        assert 0 <= low <= high <= 1, name


def test_the_confusion_matrices_have_one_row_of_scikit_learn_s_an_image(outcome):
    matrices, predictions, _ = load_evaluation(outcome.evaluated.path)
    for index, truth in enumerate(truths(outcome.job.spec)):
        known = truth != 255
        expected = confusion_matrix(truth[known], predictions[index][known], labels=range(4))
        np.testing.assert_array_equal(matrices["model"][index], expected)


def test_the_majority_baseline_is_the_train_split_s_commonest_class_everywhere(outcome):
    spec = outcome.job.spec
    train = np.concatenate([mask[mask != 255] for mask in truths(spec, "train")])
    majority = np.bincount(train).argmax()
    truth, predicted = labelled(truths(spec), [np.full_like(mask, majority) for mask in truths(spec)])
    expected = reference_scores(truth, predicted)
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert outcome.evaluated.baselines["majority"][name] == pytest.approx(expected[name], abs=1e-12), name


def test_the_prior_baseline_is_the_expected_confusion_of_guessing_by_frequency(outcome):
    spec = outcome.job.spec
    train, val = (
        np.bincount(np.concatenate([mask[mask != 255] for mask in truths(spec, split)]), minlength=4).astype(float)
        for split in ("train", "val")
    )
    prior = train / train.sum()
    hit = val * prior
    iu = hit / (val + val.sum() * prior - hit)
    found = outcome.evaluated.baselines["prior"]
    assert found["pixel_accuracy"] == pytest.approx(hit.sum() / val.sum(), abs=1e-9)
    assert found["mean_accuracy"] == pytest.approx(0.25, abs=1e-9)
    assert found["mean_iu"] == pytest.approx(iu.mean(), abs=1e-9)
    assert found["frequency_weighted_iu"] == pytest.approx((val / val.sum() * iu).sum(), abs=1e-9)


def test_every_baseline_that_was_asked_for_is_scored_beside_both_forms_of_the_sparse_stage(outcome):
    assert set(outcome.evaluated.baselines) == {
        *("sparse, sample priors", "sparse, priors restored"),
        *("majority", "prior", "rgb", "deepest", "position"),
    }
    assert all(0 <= scores["mean_iu"] <= 1 for scores in outcome.evaluated.baselines.values())


def test_random_weights_are_a_baseline_with_a_store_of_their_own(data, workspace):
    spec = tiny_spec(data, backbone__weights="random:3", evaluate__baselines=["random_weights"], train__epochs=0)
    outcome = run_tasks(spec, workspace)
    assert len(list(workspace.glob("stores/*/zarr.json"))) == 2
    same = run_tasks(tiny_spec(data, evaluate__baselines=[], train__epochs=0), workspace)
    # Restored priors on the same weights, samples and seeds: the baseline is the sparse stage of that other experiment.
    expected = same.evaluated.baselines["sparse, priors restored"]
    assert outcome.evaluated.baselines["random_weights"]["mean_iu"] == pytest.approx(expected["mean_iu"], abs=1e-12)


def test_without_dense_training_the_model_is_the_converted_sparse_stage_with_its_priors_restored(data, workspace):
    outcome = run_tasks(tiny_spec(data, train__epochs=0), workspace)
    assert outcome.trained.history["epochs"] == []
    # Where there is a dense model too, the sparse stage is scored by itself, under both priors.
    dense = run_tasks(tiny_spec(data, train__epochs=1), workspace)
    assert dense.pretrained.key == outcome.pretrained.key
    for name in ("sparse, priors restored", "sparse, sample priors"):
        expected = dense.evaluated.baselines[name]["per_class_iu"]
        assert outcome.evaluated.baselines[name]["per_class_iu"] == pytest.approx(expected, abs=1e-9), name
    assert outcome.evaluated.metrics["per_class_iu"] == outcome.evaluated.baselines["sparse, priors restored"]["per_class_iu"]
    assert outcome.evaluated.metrics["mean_iu"] != dense.evaluated.metrics["mean_iu"]


def test_the_notebook_protocol_scores_every_model_at_the_canvas_with_void_as_background(tmp_path, workspace):
    root = write_folder(tmp_path / "data", splits={"train": 4, "val": 3}, image_hw=(40, 72))
    canvas = {"mode": "stretch", "size_hw": [64, 64]}
    spec = tiny_spec(root, evaluate__protocol="notebook", evaluate__panels=3, store__canvas=canvas)
    outcome = run_tasks(spec, workspace)
    masks = [np.where(mask == 255, 0, mask) for mask in truths(spec)]
    rows, columns = (np.floor((np.arange(64) + 0.5) * side / 64).astype(int) for side in (40, 72))
    on_canvas = [mask[rows[:, None], columns] for mask in masks]
    _, predictions, _ = load_evaluation(outcome.evaluated.path)
    assert {found.shape for found in predictions.values()} == {(64, 64)}
    truth, predicted = labelled(on_canvas, [predictions[index] for index in range(3)])
    assert len(truth) == 3 * 64 * 64, "nothing is void"
    expected = reference_scores(truth, predicted)
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert outcome.evaluated.metrics[name] == pytest.approx(expected[name], abs=1e-12), name
    # The baselines are scored on the same pixels.
    majority = outcome.evaluated.baselines["majority"]
    assert majority["pixel_accuracy"] == pytest.approx(np.mean(truth == 0), abs=1e-12)
    assert majority["per_class_pixels"] == outcome.evaluated.metrics["per_class_pixels"]
    assert "void counted as background" in protocol_line(spec)


def test_averaging_with_the_mirror_image_is_said_in_the_protocol_and_scored(data, workspace):
    spec = tiny_spec(data, evaluate__flip=True)
    plain, flipped = run_tasks(tiny_spec(data), workspace), run_tasks(spec, workspace)
    assert flipped.trained.cached
    assert not flipped.evaluated.cached
    assert flipped.evaluated.metrics["mean_iu"] != plain.evaluated.metrics["mean_iu"]
    assert "mirror image" in protocol_line(spec)


def test_a_spec_whose_strides_do_not_divide_the_canvas_is_refused(data):
    with pytest.raises(SpecError, match=r"head\.output_stride: expected a divisor"):
        tiny_spec(data, head__output_stride=7)


def test_the_certificate_says_that_conversion_is_exact(outcome):
    certificate = outcome.trained.certificate
    differences = [value for name, value in certificate.items() if "difference" in name and isinstance(value, float)]
    assert differences
    assert max(differences) < 1e-3
    assert certificate == run_tasks(outcome.job.spec, outcome.job.workspace).trained.certificate


@pytest.mark.parametrize("change", [{"head__output_stride": 8}, {"head__context": "kernel3"}])
def test_a_sparse_classifier_that_another_experiment_trained_is_scored_with_this_experiment_s_head(data, tmp_path, change):
    changed = tiny_spec(data, evaluate__baselines=["deepest"], **change)
    run_tasks(tiny_spec(data, evaluate__baselines=["deepest"]), tmp_path / "shared")
    after, alone = (run_tasks(changed, tmp_path / name) for name in ("shared", "alone"))
    assert after.pretrained.cached
    assert after.evaluated.key == alone.evaluated.key
    assert after.evaluated.metrics == alone.evaluated.metrics
    assert after.evaluated.baselines == alone.evaluated.baselines
