"""The three tasks inside boxes, stage by stage: what is cached, what is shared, what is scored, and what is refused."""

import contextlib
import io
import json
import re
import warnings

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hypercolumns.box_experiments import CompareSpec
from hypercolumns.errors import DatasetError, LayerNotFoundError, SamplingError, SpecError, TrainingError
from hypercolumns.metrics import Overlaps
from storage.models import read_description
from tasks.boxes.claims import judge_claims
from tasks.boxes.compare import Difference, HeadRow, compare_variants, task_spec, variants
from tasks.boxes.evaluate import load_predictions
from tasks.boxes.examples import box_examples, box_target
from tasks.boxes.heads import load_head
from tasks.boxes.jobs import BoxJob
from tasks.boxes.manifests import (
    BoxEntry,
    BoxManifest,
    ClassEntry,
    InstanceEntry,
    decode_mask_text,
    encode_mask,
    load_box_manifest,
)
from tasks.boxes.mistakes import KINDS, diagnose_boxes
from tasks.boxes.predict import predict_boxes
from tasks.boxes.predictions import BoxPrediction
from tasks.boxes.prepare import prepare_boxes
from tasks.boxes.results import result_records
from tasks.boxes.scoring import describe_scores, summarise_boxes
from tasks.manifests import Entry
from tests.box_factory import box_spec, box_values, run_boxes
from tests.factories import save_image
from tests.pipeline_factory import digests, extract_only, read_picture, tiny_spec

TASKS = ("segment", "keypoints", "parts")


def decoded(segmentation):
    """Have pycocotools read a mask; its own use of numpy is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(segmentation)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run each task once, in one workspace; tests may look but not touch."""
    workspace = tmp_path_factory.mktemp("boxes")
    return {task: run_boxes(box_spec(task=task), workspace) for task in TASKS}


def test_the_first_task_fills_the_store_and_the_others_find_every_map(outcomes):
    assert outcomes["segment"].extracted.images_computed == 10
    for task in ("keypoints", "parts"):
        assert outcomes[task].extracted.cached
        assert outcomes[task].extracted.key == outcomes["segment"].extracted.key


def test_a_segmentation_experiment_on_the_same_scenes_finds_their_maps(outcomes):
    segment = outcomes["segment"]
    spec = tiny_spec(None, dataset__kind="shapes", dataset__root=None, dataset__shapes={"images": 10, "size": 64})
    extracted = extract_only(spec, segment.job.workspace)
    assert extracted.key == segment.extracted.key
    assert extracted.images_computed == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_second_run_finds_every_stage_and_changes_no_file(outcomes, task):
    first = outcomes[task]
    before = digests(first.job.workspace)
    again = run_boxes(first.job.spec, first.job.workspace)
    assert again.cached == [True] * 4
    assert again.evaluated.metrics == first.evaluated.metrics
    assert digests(first.job.workspace) == before


def test_the_same_experiment_in_another_workspace_gives_the_same_scores(outcomes, tmp_path):
    again = run_boxes(outcomes["segment"].job.spec, tmp_path)
    assert again.trained.key == outcomes["segment"].trained.key
    assert again.evaluated.metrics == outcomes["segment"].evaluated.metrics


@pytest.mark.parametrize(
    ("task", "scores", "baselines"),
    [
        ("segment", {"ap_r@0.5", "ap_r@0.7", "ap_r_volume", "ap_b@0.5", "mask_iou"}, {"rectangle", "ellipse", "mean_mask"}),
        ("keypoints", {"pck@0.1", "apk@0.1"}, {"mean_pose"}),
        ("parts", {"ap_r_part@0.5", "ap_r_part_volume", "part_iou"}, {"mean_parts"}),
    ],
)
def test_every_score_has_an_interval_a_baseline_and_its_rule(outcomes, task, scores, baselines):
    evaluated = outcomes[task].evaluated
    assert scores <= set(evaluated.metrics)
    assert set(evaluated.baselines) == baselines
    for name in scores:
        low, high = evaluated.metrics["intervals"][name]
        assert 0 <= low <= high <= 1
    for values in evaluated.baselines.values():
        assert scores <= set(values["model_better_by"])
    assert evaluated.protocol.startswith("split val; ")
    assert "moved by up to 0.1" in evaluated.protocol


def test_the_box_itself_scores_the_share_of_the_object_in_it(outcomes):
    segment = outcomes["segment"]
    manifest = load_box_manifest(segment.prepared.path)
    shares = []
    for entry in manifest.splits["val"]:
        for box in entry.detections:
            x0, y0, x1, y1 = (round(side) for side in box.box_xyxy)
            shares.append(entry.instances[box.source].mask_array(entry.image.image_hw)[y0:y1, x0:x1].mean())
    assert segment.evaluated.baselines["rectangle"]["mask_iou/all"] == pytest.approx(np.mean(shares), abs=1e-9)


@pytest.mark.parametrize("task", ["segment", "parts"])
def test_mistakes_are_counted_for_the_head_and_every_baseline_and_add_up(outcomes, task):
    evaluated = outcomes[task].evaluated
    for scores in (evaluated.metrics, *evaluated.baselines.values()):
        mistakes = scores["mistakes"]
        assert mistakes["threshold"] == 0.5
        for counts in (mistakes["all"], *mistakes["per_class"].values()):
            assert counts["missed"] == counts["instances"] - counts["correct"]
            assert sum(counts[kind] for kind in KINDS) <= counts["instances"]
        for kind, count in mistakes["all"].items():
            assert count == sum(counts[kind] for counts in mistakes["per_class"].values())
    page = outcomes[task].report().path.read_text(encoding="utf-8")
    assert "mislocalised" in page
    assert "What the best detections are" in page
    assert "mistakes" not in outcomes["keypoints"].evaluated.metrics


def one_image(overlap, labels=(0, 1)):
    """Return a detection of the first class that overlaps an instance of the second."""
    first, second = np.array(labels[:1]), np.array(labels[1:])
    return Overlaps("one", np.array([0.9]), first, np.append(first, second), np.zeros(2, np.bool_), np.array([[0.0, overlap]]))


@pytest.mark.parametrize(
    ("kind", "names", "expected", "source"),
    [
        ("coco", ("cat", "dog"), "similar_class", "COCO's supercategories"),
        ("coco", ("cat", "car"), "other_class", "COCO's supercategories"),
        ("voc", ("cat", "dog"), "similar_class", "PASCAL VOC's"),
        ("shapes", ("cat", "dog"), "other_class", "none are known"),
    ],
)
def test_similar_classes_are_those_that_the_kind_of_data_set_knows(kind, names, expected, source):
    instances = {"kind": kind, "root": None if kind == "shapes" else "x"}
    found = diagnose_boxes([one_image(0.3)], names, box_spec(instances=instances))
    assert found["per_class"][names[0]][expected] == 1
    assert found["similar"].startswith(source)
    assert found["all"]["missed"] == 2
    assert diagnose_boxes([], names, box_spec()) == {}


def test_predictions_are_kept_one_a_box_and_masks_are_cocos(outcomes):
    segment = outcomes["segment"]
    manifest = load_box_manifest(segment.prepared.path)
    found = load_predictions(segment.evaluated.path)["found"]
    assert [len(each) for each in found] == [len(entry.detections) for entry in manifest.splits["val"]]
    written = json.loads((segment.report().path.parent / "results.json").read_text(encoding="utf-8"))
    flat = [(entry, each) for entry, own in zip(manifest.splits["val"], found, strict=True) for each in own]
    assert len(written) == len(flat)
    for record, (entry, each) in zip(written, flat, strict=True):
        np.testing.assert_array_equal(decoded(record["segmentation"]), each.mask_array(entry.image.image_hw))
        assert record["image_id"] == entry.number


def test_parts_of_a_prediction_fill_its_mask_and_do_not_overlap(outcomes):
    parts = outcomes["parts"]
    manifest = load_box_manifest(parts.prepared.path)
    predictions = load_predictions(parts.evaluated.path)
    for entry, found in zip(manifest.splits["val"], predictions["given"], strict=True):
        for each in found:
            np.testing.assert_array_equal(each.part_map(entry.image.image_hw) > 0, each.mask_array(entry.image.image_hw))


@pytest.mark.parametrize("task", TASKS)
def test_the_report_is_one_file_that_fetches_nothing(outcomes, task):
    written = outcomes[task].report()
    text = written.path.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    for word in ("Scores", "Against the baselines", "Store and time", "Best", "Protocol"):
        assert word in text
    assert "| predictor |" in written.markdown_path.read_text(encoding="utf-8")


def test_rescoring_superpixels_and_region_suppression_change_scores_and_masks_alone(tmp_path):
    spec = box_spec(
        detections__spread=0.3,
        detections__copies=2,
        evaluate__rescore=True,
        evaluate__superpixels="slic",
        evaluate__superpixel_pixels=20,
        evaluate__region_iou=0.3,
        evaluate__panels=0,
    )
    outcome = run_boxes(spec, tmp_path)
    _, rescorer, card = load_head(outcome.trained.path)
    assert rescorer is not None
    manifest = load_box_manifest(outcome.prepared.path)
    found = load_predictions(outcome.evaluated.path)["found"]
    given = {box.score for entry in manifest.splits["val"] for box in entry.detections}
    assert not {each.score for own in found for each in own} & given
    assert sum(map(len, found)) <= outcome.prepared.detections["val"]
    assert card.boxes == 12
    outcome.report()


def test_a_rescorer_needs_right_and_wrong_detections(tmp_path):
    spec = box_spec(evaluate__rescore=True, evaluate__mask_threshold=0.99, train__epochs=0, train__cell_iterations=0)
    with pytest.raises(SamplingError, match="right and wrong"):
        run_boxes(spec, tmp_path)


def test_what_does_not_decide_a_stage_does_not_make_it_again(outcomes):
    first = outcomes["segment"]
    spec = box_spec(evaluate__mask_threshold=0.6, evaluate__panels=0)
    again = run_boxes(spec, first.job.workspace)
    assert again.cached == [True, True, True, False]
    assert run_boxes(box_spec(head__grid=1), first.job.workspace).cached == [True, True, False, False]


def test_one_classifier_for_all_classes_has_one_output(outcomes):
    agnostic = run_boxes(box_spec(head__class_agnostic=True), outcomes["segment"].job.workspace)
    model, _, card = load_head(agnostic.trained.path)
    assert model.classes == 1
    assert card.outputs == ((0, 1), (0, 1))
    assert set(agnostic.evaluated.metrics["per_class"]) == set(outcomes["segment"].evaluated.metrics["per_class"])


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    spec = box_spec(train__epochs=3)
    whole = run_boxes(spec, tmp_path / "whole")
    import hypercolumns.training as training

    original = training._Run.one_epoch

    def stop(self, progress):
        if self.epoch == 2:
            raise KeyboardInterrupt
        original(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run_boxes(spec, tmp_path / "stopped")
    resumed = run_boxes(spec, tmp_path / "stopped")
    assert resumed.trained.history["resumed_from"] == 2
    assert resumed.evaluated.metrics == whole.evaluated.metrics


def test_mirrored_views_of_training_images_are_learned_from_and_change_what_is_learned(outcomes, tmp_path):
    first = outcomes["keypoints"]
    spec = box_spec(task="keypoints", store__views=["identity", "hflip"])
    mirrored = run_boxes(spec, first.job.workspace)
    assert mirrored.extracted.key == first.extracted.key, "mirrored maps are rows of the same store"
    assert mirrored.extracted.images_computed == first.prepared.images["train"], "of the training images alone"
    assert mirrored.trained.key != first.trained.key
    assert run_boxes(spec, first.job.workspace).cached == [True] * 4
    plain, other = (load_head(each.trained.path)[0] for each in (first, mirrored))
    assert not np.allclose(plain.first.weight.detach(), other.first.weight.detach())


def mirrored_instance(each, image_hw):
    """Mirror what is known of an object, array by array and point by point; names stay where they were."""
    texts = [
        None if text is None else encode_mask(decode_mask_text(text, image_hw)[:, ::-1])
        for text in (each.mask, *(each.parts or ()))
    ]
    points = each.keypoints_xyv
    changes = {
        "mask": texts[0],
        "parts": None if each.parts is None else tuple(texts[1:]),
        "keypoints_xyv": None if points is None else tuple((image_hw[1] - x, y, v) for x, y, v in points),
    }
    return each.model_copy(update=changes)


def exchanged(name):
    return {"left": "right", "right": "left"}.get(name, name)


@pytest.mark.parametrize("task", TASKS)
def test_a_mirrored_example_is_what_the_mirrored_object_shows_in_the_mirrored_box(outcomes, task):
    spec = box_spec(task=task, store__views=["identity", "hflip"], pairs__expansion=0.1)
    manifest = load_box_manifest(outcomes[task].prepared.path)
    examples = box_examples(manifest, spec)
    sided = 0
    for number, image in enumerate(examples.images.tolist()):
        entry, label = manifest.splits["train"][image], int(examples.labels[number])
        box = examples.boxes_xyxy[number]
        seen = examples.placed(np.array([number]), "hflip")[0][0]
        assert seen.tolist() == [64 - box[2], box[1], 64 - box[0], box[3]], "the scenes are as large as the canvas"
        own = manifest.classes[label]
        names = {"segment": [""], "keypoints": own.keypoints, "parts": ["", *own.parts]}[task]
        order = [list(names).index("_".join(exchanged(word) for word in name.split("_"))) for name in names]
        sided += order != sorted(order)
        shown = [
            box_target(mirrored_instance(each, entry.image.image_hw), entry, seen, manifest, spec)[order]
            for each in entry.instances
            if each.label == label
        ]
        found = examples.target(number, "hflip")
        assert any(np.allclose(each, found, atol=1e-6, equal_nan=True) for each in shown)
    assert sided == (len(examples) if task == "keypoints" else 0)


def coco_root(tmp_path, **changes):
    """Write one train and one val image with a box each, and whatever an annotation is to be changed to."""
    for split in ("train", "val"):
        save_image(tmp_path / "JPEGImages" / f"{split}.png", np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
        annotation = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 5, 30, 20],
            "area": 600,
            "iscrowd": 0,
            "segmentation": [[5, 5, 35, 5, 35, 25, 5, 25]],
        }
        document = {
            "images": [{"id": 1, "file_name": f"{split}.png", "height": 40, "width": 50}],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [annotation | (changes if split == "val" else {})],
        }
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document), encoding="utf-8")
    return tmp_path


def coco_values(root, **overrides):
    values = box_values(**overrides)
    values["instances"] = {"kind": "coco", "root": str(root)}
    return values


def refused(values, workspace, message, error=DatasetError):
    from hypercolumns.box_experiments import BoxExperimentSpec
    from hypercolumns.specs import parse_spec

    with pytest.raises(error, match=message) as caught:
        run_boxes(parse_spec(BoxExperimentSpec, values), workspace)
    assert not (workspace / "stores").exists() or not list((workspace / "stores").rglob("*.json")), "nothing was computed"
    return str(caught.value)


def test_a_small_coco_set_runs_through(tmp_path):
    from hypercolumns.box_experiments import BoxExperimentSpec
    from hypercolumns.specs import parse_spec

    spec = parse_spec(BoxExperimentSpec, coco_values(coco_root(tmp_path / "data"), evaluate__bootstrap=0))
    outcome = run_boxes(spec, tmp_path / "w")
    assert outcome.evaluated.metrics["ap_b@0.5"] == 1.0
    assert outcome.evaluated.metrics["intervals"] == {}
    outcome.report()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [5, 5, 0, 20]}, "record|annotation"),
        ({"segmentation": {"size": [39, 50], "counts": [39 * 50]}}, "size"),
        ({"category_id": 9}, "categor"),
        ({"image_id": 9}, "image"),
    ],
)
def test_bad_annotations_are_named_with_their_file_before_anything_is_computed(tmp_path, change, message):
    text = refused(coco_values(coco_root(tmp_path / "data", **change)), tmp_path / "w", message)
    assert "instances_val.json" in text


def test_an_image_of_another_size_than_annotated_and_a_truncated_one_are_named(tmp_path):
    root = coco_root(tmp_path / "data")
    path = root / "JPEGImages" / "val.png"
    path.write_bytes(path.read_bytes()[:900])
    assert "val.png" in refused(coco_values(root), tmp_path / "w", "truncated|cannot be used")


def test_detections_that_miss_an_image_or_name_a_foreign_class_are_refused(tmp_path):
    root = coco_root(tmp_path / "data")
    good = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 20], "score": 0.5}
    for change, message in (({"score": None}, "score"), ({"category_id": 7}, "categor"), ({"image_id": 7}, "image")):
        (root / "found.json").write_text(json.dumps([good | change]), encoding="utf-8")
        values = coco_values(root, detections={"kind": "coco_results", "results": str(root / "found.json")})
        assert "found.json" in refused(values, tmp_path / "w", message)
    (root / "found.json").write_text(json.dumps([good]), encoding="utf-8")
    from hypercolumns.box_experiments import BoxExperimentSpec
    from hypercolumns.specs import parse_spec

    outcome = run_boxes(parse_spec(BoxExperimentSpec, values), tmp_path / "w")
    assert outcome.prepared.detections == {"train": 1, "val": 1}


def test_a_task_that_the_data_set_cannot_serve_is_refused(tmp_path):
    root = coco_root(tmp_path / "data")
    for task in ("keypoints", "parts"):
        refused(coco_values(root, task=task), tmp_path / "w", f"class with {task}")


def test_detections_that_fit_no_object_leave_nothing_to_learn(tmp_path):
    root = coco_root(tmp_path / "data")
    (root / "found.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}]), encoding="utf-8"
    )
    values = coco_values(root, detections={"kind": "coco_results", "results": str(root / "found.json")})
    from hypercolumns.box_experiments import BoxExperimentSpec
    from hypercolumns.specs import parse_spec

    with pytest.raises(TrainingError, match=r"overlap an object with mask by 0\.7, got none"):
        run_boxes(parse_spec(BoxExperimentSpec, values), tmp_path / "w")


def test_a_layer_that_the_backbone_has_not_is_refused_before_extraction(tmp_path):
    with pytest.raises(LayerNotFoundError, match="nowhere"):
        run_boxes(box_spec(head__layers=["nowhere"]), tmp_path)
    assert not list(tmp_path.rglob("*.shard*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task": "parts", "head__class_agnostic": True}, "class_agnostic"),
        ({"head__grid": 20}, "pairs.side"),
        ({"evaluate__mask_threshold": 1.5}, "evaluate.mask_threshold"),
        ({"task": "boxes"}, "task"),
    ],
)
def test_specs_that_do_not_fit_are_refused_with_their_path(overrides, message):
    with pytest.raises(SpecError, match=message):
        box_spec(**overrides)


def boxes_file(tmp_path, *records):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", TASKS)
def test_a_head_predicts_in_boxes_of_images_nobody_has_seen(outcomes, task, tmp_path):
    images = [save_image(tmp_path / "in" / f"{n}.png", np.full((30 + n, 50, 3), 99, np.uint8)) for n in (1, 2)]
    category = load_box_manifest(outcomes[task].prepared.path).classes[0].category_id
    boxes = boxes_file(
        tmp_path,
        {"image_id": 1, "category_id": category, "bbox": [-5, 4, 30, 20], "score": 0.5},
        {"image_id": "2.png", "category_id": category, "bbox": [10, 4, 30, 20]},
    )
    result = predict_boxes(outcomes[task].trained.path, images, boxes, tmp_path / "out")
    records = json.loads(result.results.read_text(encoding="utf-8"))
    assert [record["image_id"] for record in records] == ["1.png", "2.png"]
    # Poses are ranked by the mean of what their points are sure of.
    expected = [np.mean(record["keypoint_scores"]) for record in records] if task == "keypoints" else [0.5, 1.0]
    assert [record["score"] for record in records] == pytest.approx(expected)
    assert records[0]["bbox"] == [0, 4, 25, 20], "cut off at the image's edge"
    assert result.boxes == 2
    assert (tmp_path / "out" / "1.overlay.jpg").is_file()
    if task == "keypoints":
        assert len(records[0]["keypoints"]) == 3 * len(records[0]["keypoint_scores"])
    else:
        mask = decoded(records[1]["segmentation"])
        np.testing.assert_array_equal(read_picture(tmp_path / "out" / "2.objects.png") > 0, mask)
    if task == "parts":
        assert set(records[0]["parts"]) == set(load_box_manifest(outcomes[task].prepared.path).classes[0].parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "other"}, "record 0: .*image_id 'other'"),
        ({"category_id": 999}, "category_id"),
        ({"score": float("nan")}, "finite score"),
        ({"bbox": [1, 1, 0, 5]}, "with an area"),
        ({"bbox": [500, 1, 5, 5]}, "meets the image"),
        ({"bbox": [1, 1, 5]}, "record 0"),
        ({"bbox": None}, "record 0"),
    ],
)
def test_a_wrong_box_is_named_and_nothing_is_written(outcomes, tmp_path, change, message):
    image = save_image(tmp_path / "in" / "1.png", np.zeros((30, 50, 3), np.uint8))
    category = load_box_manifest(outcomes["segment"].prepared.path).classes[0].category_id
    boxes = boxes_file(tmp_path, {"image_id": 1, "category_id": category, "bbox": [5, 4, 30, 20], "score": 0.5} | change)
    with pytest.raises(DatasetError, match=message):
        predict_boxes(outcomes["segment"].trained.path, [image], boxes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_boxes_file_that_is_no_list_and_one_that_is_missing_are_refused(outcomes, tmp_path):
    image = save_image(tmp_path / "1.png", np.zeros((30, 50, 3), np.uint8))
    (tmp_path / "boxes.json").write_text("{}", encoding="utf-8")
    for path, message in ((tmp_path / "boxes.json", "list of records"), (tmp_path / "none.json", "cannot be read")):
        with pytest.raises(DatasetError, match=message):
            predict_boxes(outcomes["segment"].trained.path, [image], path, tmp_path / "out")


def test_another_kind_of_model_is_no_head(outcomes):
    with pytest.raises(TrainingError, match="head inside boxes"):
        load_head(outcomes["segment"].evaluated.path)


def test_heads_are_compared_on_one_store_and_found_again(outcomes):
    spec = CompareSpec(base=outcomes["segment"].job.spec, grids=(1, 2), layer_grid=2)
    segment = outcomes["segment"]
    job = BoxJob(spec=task_spec(spec, "segment"), workspace=segment.job.workspace)
    prepared = prepare_boxes(job)
    compared = compare_variants(job, spec, "segment", prepared, segment.extracted)
    names = [row.name for row in compared.rows]
    assert names == ["all layers, K = 1", "all layers, K = 2", "deepest", "deepest + finest"]
    assert [row.columns for row in compared.rows] == [192, 192, 128, 192]
    assert {each.score for each in compared.differences} == {"ap_r@0.5", "ap_r@0.7", "mask_iou"}
    whole = {row.name: row.scores for row in compared.rows}
    for each in compared.differences:
        assert each.difference == pytest.approx(whole[each.first][each.score] - whole[each.second][each.score])
    again = compare_variants(job, spec, "segment", prepared, segment.extracted)
    assert again.cached
    assert again.rows[0].scores == compared.rows[0].scores


def test_the_heads_of_three_layers_leave_each_out_once():
    found = {each.name: each.layers for each in variants(CompareSpec(grids=(1, 5, 10)), ("a", "b", "c"))}
    assert found == {
        "all layers, K = 1": None,
        "all layers, K = 5": None,
        "all layers, K = 10": None,
        "deepest": ("c",),
        "deepest + middle": ("b", "c"),
        "deepest + middle + finest": ("a", "b", "c"),
        "without a": ("b", "c"),
        "without b": ("a", "c"),
        "without c": ("a", "b"),
    }


def head_row(name, score, strict, grid=5):
    return HeadRow(
        task="segment",
        name=name,
        layers=("a",),
        grid=grid,
        columns=1,
        scores={"ap_r@0.5": score, "ap_r@0.7": strict},
        intervals={},
        train_seconds=0,
        evaluate_seconds=0,
        cached=False,
        map_bytes=0,
    )


def test_claims_hold_or_not_by_their_numbers():
    rows = [
        head_row("all layers, K = 1", 0.50, 0.3, grid=1),
        head_row("all layers, K = 5", 0.55, 0.4),
        head_row("all layers, K = 10", 0.54, 0.4, grid=10),
        head_row("deepest", 0.45, 0.2),
        head_row("deepest + middle", 0.5, 0.2),
        head_row("without a", 0.56, 0.1),
        head_row("without b", 0.5, 0.1),
    ]
    paired = Difference(
        task="segment",
        score="ap_r@0.5",
        first="all layers, K = 5",
        second="all layers, K = 1",
        difference=0.05,
        low=0.01,
        high=0.09,
        probability_better=0.99,
    )
    claims = {claim.text: claim for claim in judge_claims(rows, [paired], 5)}
    verdicts = {text.removeprefix("segment: ").split(" (")[0].split(",")[0]: claim.holds for text, claim in claims.items()}
    assert verdicts == {
        "every layer helps": False,
        "the deepest layer alone is worst": False,
        "K = 5 beats K = 1": True,
        "K = 10 is as good as K = 5": True,
        "hypercolumns beat the top layer on segment": True,
    }
    grid = next(claim for text, claim in claims.items() if "beats K = 1" in text)
    assert "interval +1.0 to +9.0" in grid.line
    assert grid.line.startswith("holds: ")
    assert "1 of 2 do" in next(claim.line for text, claim in claims.items() if "every layer" in text)


def test_the_description_of_a_head_names_what_it_was_made_from(outcomes):
    card = read_description(outcomes["segment"].trained.path)
    assert card["keys"] == {"store": outcomes["segment"].extracted.key, "boxes": outcomes["segment"].prepared.key}


def person(points, **changes):
    x, y = np.array(points)[:, 0], np.array(points)[:, 1]
    values = {"label": 0, "box_xyxy": (x.min(), y.min(), x.max(), y.max()), "ignored": False}
    return InstanceEntry(**values, keypoints_xyv=[(*point, 2.0) for point in points], **changes)


def test_pycocotools_scores_the_written_poses_as_they_were_scored_here():
    random = np.random.default_rng(1)
    entries, found, annotations = [], [], []
    for number in range(1, 6):
        points = random.integers(5, 75, (17, 2)).astype(float)
        image = Entry(image_id=str(number), image_path="x", image_sha256="0" * 64, image_hw=(80, 80))
        truth = person(points.tolist())
        entries.append(BoxEntry(image=image, number=number, instances=(truth,), detections=()))
        x0, y0, x1, y1 = truth.box_xyxy
        flat = [value for x, y in points.tolist() for value in (x - 0.5, y - 0.5, 2)]
        box = [x0, y0, x1 - x0, y1 - y0]
        annotation = {"id": number, "image_id": number, "category_id": 1, "keypoints": flat, "num_keypoints": 17, "bbox": box}
        annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0})
        for noise in (2.0, 8.0):
            moved = points + random.normal(0, noise, points.shape)
            lines = [(x, y, score) for (x, y), score in zip(moved.tolist(), random.random(17).tolist(), strict=True)]
            found.append((number, BoxPrediction(label=0, score=random.random(), box_xyxy=truth.box_xyxy, points_xys=lines)))
    classes = (ClassEntry(name="person", category_id=1, keypoints=tuple(f"k{n}" for n in range(17))),)
    manifest = BoxManifest(dataset="poses", classes=classes, max_megapixels=1, splits={"val": tuple(entries)})
    own = [[each for number, each in found if number == entry.number] for entry in entries]
    scores = describe_scores(
        summarise_boxes(manifest, "val", {"found": own, "given": own}, box_spec(task="keypoints")), box_spec()
    )
    records = [record for entry, each in zip(entries, own, strict=True) for record in result_records(entry, classes, each)]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {"images": [{"id": n} for n in range(1, 6)], "categories": [{"id": 1}], "annotations": annotations}
        known.createIndex()
        judge = COCOeval(known, known.loadRes(records), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert 0.05 < scores["oks_ap"] < 0.95
    assert (scores["oks_ap"], scores["oks_ap@0.5"]) == pytest.approx(tuple(judge.stats[:2]), abs=1e-9)


def test_poses_of_cocos_keypoints_are_scored_by_their_similarity():
    random = np.random.default_rng(0)
    entries, right, wrong = [], [], []
    for number in range(3):
        points = random.uniform(5, 75, (17, 2))
        image = Entry(image_id=str(number), image_path="x", image_sha256="0" * 64, image_hw=(80, 80))
        truth = person(points.tolist())
        entries.append(BoxEntry(image=image, number=number, instances=(truth,), detections=()))
        for kept, shift in ((right, 0.0), (wrong, 60.0)):
            lines = [(x + shift, y, 0.5) for x, y in points.tolist()]
            kept.append([BoxPrediction(label=0, score=0.9, box_xyxy=truth.box_xyxy, points_xys=lines)])
    classes = (ClassEntry(name="person", category_id=1, keypoints=tuple(f"k{n}" for n in range(17))),)
    manifest = BoxManifest(dataset="poses", classes=classes, max_megapixels=1, splits={"val": tuple(entries)})
    spec = box_spec(task="keypoints")
    for predictions, expected in ((right, 1.0), (wrong, 0.0)):
        found = summarise_boxes(manifest, "val", {"found": predictions, "given": predictions}, spec)
        scores = describe_scores(found, spec)
        assert scores["oks_ap"] == pytest.approx(expected, abs=1e-9 if expected else 0.01)
        assert "oks_ap@0.5" in scores
        assert len(scores["intervals"]["oks_ap"]) == 2


@pytest.mark.parametrize("task", TASKS)
def test_a_report_s_first_and_marked_row_is_the_head_s(outcomes, task):
    page = outcomes[task].report().path.read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="model"><th scope="row">([^<]*)<', page)
    assert set(rows) == {"grid classifiers on hypercolumns"}
    assert len(rows) == (1 if task == "keypoints" else 2)
