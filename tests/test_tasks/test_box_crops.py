"""Heads on warped crops of boxes: rows of the store, what is shared, what is computed, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hypercolumns.box_experiments import CompareSpec
from hypercolumns.errors import BackboneError, DatasetError, GeometryError, SpecError
from storage.errors import DiskSpaceError
from tasks.boxes.compare import compare_variants
from tasks.boxes.crops import crop_entry, wanted_crops
from tasks.boxes.evaluate import load_predictions
from tasks.boxes.examples import box_examples
from tasks.boxes.heads import load_head
from tasks.boxes.jobs import BoxJob
from tasks.boxes.manifests import BoxEntry, load_box_manifest
from tasks.boxes.maps import open_box_maps
from tasks.boxes.plan import check_boxes
from tasks.boxes.predict import predict_boxes
from tasks.boxes.predicted import predicted_boxes
from tasks.boxes.prepare import prepare_boxes
from tasks.crops import Crop
from tasks.manifests import Entry, load_manifest, row_key
from tasks.stores import experiment_backbone
from tests.box_factory import box_spec, run_boxes
from tests.factories import save_image
from tests.pipeline_factory import digests

TASKS = ("segment", "keypoints", "parts")
CROP_HW = (48, 40)


def crop_spec(**overrides):
    canvas = {"mode": "stretch", "size_hw": list(CROP_HW)}
    common = {"maps": "crop", "store__canvas": canvas, "pairs__expansion": 0.1, "instances__class_names": None}
    return box_spec(**{**common, **overrides})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run each task once, in one workspace; tests may look but not touch."""
    workspace = tmp_path_factory.mktemp("crops")
    return {task: run_boxes(crop_spec(task=task), workspace) for task in TASKS}


def crops_of(outcome, split):
    return load_manifest(outcome.prepared.images_path).splits[split]


def test_exactly_the_boxes_that_are_read_are_extracted_each_once(outcomes):
    segment = outcomes["segment"]
    manifest, spec = load_box_manifest(segment.prepared.path), segment.job.spec
    train, val = crops_of(segment, "train"), crops_of(segment, "val")
    assert len(val) == sum(len(entry.detections) for entry in manifest.splits["val"])
    assert len({row_key(each, "identity") for each in (*train, *val)}) == len(train) + len(val)
    assert segment.extracted.images_computed == len(train) + len(val)
    examples = box_examples(manifest, spec)
    assert set(examples.images) == set(range(len(train))), "each crop of the training split is learned from"


@pytest.mark.parametrize("task", TASKS)
def test_a_second_run_finds_every_crop_and_changes_no_file(outcomes, task):
    first = outcomes[task]
    before = digests(first.job.workspace)
    again = run_boxes(first.job.spec, first.job.workspace)
    assert again.cached == [True] * 4
    assert again.extracted.images_computed == 0
    assert digests(first.job.workspace) == before


def test_experiments_share_the_rows_of_the_boxes_that_both_read(outcomes, tmp_path):
    first = run_boxes(crop_spec(), tmp_path)
    other = run_boxes(crop_spec(pairs__seed=1, pairs__boxes=40), tmp_path)
    assert other.extracted.key == first.extracted.key
    keys = [
        {row_key(each, "identity") for split in ("train", "val") for each in crops_of(own, split)} for own in (first, other)
    ]
    assert keys[0] & keys[1]
    assert other.extracted.images_computed == len(keys[1] - keys[0])
    wider = run_boxes(crop_spec(pairs__expansion=0.2), tmp_path)
    assert wider.extracted.key == first.extracted.key
    assert wider.extracted.images_computed == first.extracted.images_computed, "another expansion is another crop"


def test_maps_of_a_crop_are_those_of_a_crop_made_independently(outcomes):
    """By hand: pad the image, warp the expanded box with Pillow alone, run the backbone, and compare with the store."""
    segment = outcomes["segment"]
    manifest, spec = load_box_manifest(segment.prepared.path), segment.job.spec
    backbone = experiment_backbone(spec.features)
    maps = open_box_maps(segment.job, segment.prepared, "val", passes=1)
    mean = np.rint(np.array(spec.backbone.mean_rgb) * 255)
    compared = 0
    for index, entry in enumerate(manifest.splits["val"]):
        pixels = manifest.image(entry)
        for seen in maps(index, entry, entry.detections):
            for number, box in enumerate(seen.members):
                x0, y0, x1, y1 = box.box_xyxy
                wide, high = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
                x0, y0, x1, y1 = x0 - wide, y0 - high, x1 + wide, y1 + high
                padded = np.pad(pixels, ((64, 64), (64, 64), (0, 0)), mode="edge")
                window = (x0 + 64, y0 + 64, x1 + 64, y1 + 64)
                canvas = np.array(Image.fromarray(padded).resize(CROP_HW[::-1], Image.Resampling.BILINEAR, box=window))
                rows = y0 + (np.arange(CROP_HW[0]) + 0.5) * (y1 - y0) / CROP_HW[0]
                columns = x0 + (np.arange(CROP_HW[1]) + 0.5) * (x1 - x0) / CROP_HW[1]
                canvas[((rows < 0) | (rows >= 64))[:, None] | ((columns < 0) | (columns >= 64))] = mean
                normal = (canvas / 255 - spec.backbone.mean_rgb) / spec.backbone.std_rgb
                images = torch.from_numpy(normal).float().permute(2, 0, 1)[None]
                for layer, values in zip(backbone.layers, seen.maps, strict=True):
                    expected = backbone(images)[layer.name][0].permute(1, 2, 0)
                    found = values[number].float()
                    # Half precision, and pixels that Pillow's own arithmetic rounds up here and down there.
                    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
                    compared += 1
    assert compared >= 10


def test_a_crop_covers_its_expanded_box_and_nothing_else(outcomes):
    """The head's points lie evenly over the whole canvas of the crop, as the target's lie in the expanded box."""
    segment = outcomes["segment"]
    manifest = load_box_manifest(segment.prepared.path)
    model, _, card = load_head(segment.trained.path)
    assert (model.expansion, card.spec.pairs.expansion) == (0.0, 0.1)
    examples = box_examples(manifest, segment.job.spec)
    height, width = CROP_HW
    np.testing.assert_array_equal(examples.boxes_xyxy, np.tile([0, 0, width, height], (len(examples), 1)))
    whole = [(examples.edges_xyxy[n] == [0, 0, width, height]).all() for n in range(len(examples))]
    assert any(whole)


@pytest.mark.parametrize("task", TASKS)
def test_every_box_is_predicted_and_scored(outcomes, task):
    outcome = outcomes[task]
    manifest = load_box_manifest(outcome.prepared.path)
    found = load_predictions(outcome.evaluated.path)
    for place, kind in enumerate(found):
        boxes = [predicted_boxes(entry, manifest, outcome.job.spec)[place] for entry in manifest.splits["val"]]
        assert [len(each) for each in found[kind]] == [len(each) for each in boxes]
    assert outcome.evaluated.baselines
    assert outcome.report().path.is_file()


def test_crops_in_parts_are_predicted_as_all_at_once(outcomes):
    segment = outcomes["segment"]
    one = segment.job.spec.model_copy(update={"store": segment.job.spec.store.model_copy(update={"batch_images": 1})})
    manifest = load_box_manifest(segment.prepared.path)
    for index, entry in enumerate(manifest.splits["val"]):
        whole, parts = (
            list(open_box_maps(job, segment.prepared, "val", passes=1)(index, entry, entry.detections))
            for job in (segment.job, segment.job.model_copy(update={"spec": one}))
        )
        if entry.detections:
            assert (len(whole), len(parts)) == (1, len(entry.detections))
            for number, values in enumerate(whole[0].maps):
                assert torch.equal(values, torch.cat([each.maps[number] for each in parts]))


def test_the_planner_counts_crops_and_their_views(outcomes, tmp_path):
    for views in (["identity"], ["identity", "hflip"]):
        spec = crop_spec(store__views=views)
        job = BoxJob(spec=spec, workspace=tmp_path)
        prepared = prepare_boxes(job)
        planned = check_boxes(job, prepared)
        crops = load_manifest(prepared.images_path).splits
        rows = len(crops["train"]) * len(views) + len(crops["val"])
        layers = experiment_backbone(spec.features).layers
        plain = sum(2 * layer.map_hw[0] * layer.map_hw[1] * layer.channels for layer in layers)
        assert planned.images == planned.missing == rows
        assert rows * plain <= planned.bytes_needed <= rows * plain * 1.01, "checksums come on top"


def test_crops_that_the_disk_would_not_hold_are_refused_before_any_is_computed(tmp_path, monkeypatch):
    job = BoxJob(spec=crop_spec(), workspace=tmp_path)
    prepared = prepare_boxes(job)
    import tasks.plan as plan

    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DiskSpaceError, match="nothing was computed"):
        check_boxes(job, prepared)


def test_mirrored_crops_are_rows_of_their_own_and_are_learned_from(outcomes):
    first = outcomes["keypoints"]
    spec = crop_spec(task="keypoints", store__views=["identity", "hflip"])
    mirrored = run_boxes(spec, first.job.workspace)
    assert mirrored.extracted.images_computed == len(crops_of(first, "train"))
    assert mirrored.trained.key != first.trained.key
    assert run_boxes(spec, first.job.workspace).cached == [True] * 4
    source = open_box_maps(mirrored.job, mirrored.prepared, "train", passes=1).source
    backbone = experiment_backbone(spec.features)
    crop = crops_of(mirrored, "train")[0]
    canvas = load_manifest(mirrored.prepared.images_path).canvas(crop, spec.store.canvas, spec.backbone.mean_rgb)[:, ::-1]
    normal = (canvas / 255 - spec.backbone.mean_rgb) / spec.backbone.std_rgb
    expected = backbone(torch.from_numpy(normal.copy()).float().permute(2, 0, 1)[None])
    for layer, values in zip(source.layers, source.maps([(0, "hflip")]), strict=True):
        torch.testing.assert_close(values[0].float(), expected[layer.name][0].permute(1, 2, 0), rtol=2e-3, atol=2e-3)
    (box, edges) = box_examples(load_box_manifest(mirrored.prepared.path), spec).placed(np.array([0]), "hflip")
    assert box[0].tolist() == [0, 0, CROP_HW[1], CROP_HW[0]]
    assert edges[0][0] < edges[0][2]


def test_a_rescorer_looks_at_crops_of_all_detections(tmp_path):
    spec = crop_spec(detections__spread=0.3, detections__copies=2, evaluate__rescore=True, store__batch_images=2)
    outcome = run_boxes(spec, tmp_path)
    manifest = load_box_manifest(outcome.prepared.path)
    assert len(crops_of(outcome, "train")) == sum(len(entry.detections) for entry in manifest.splits["train"])
    assert load_head(outcome.trained.path)[1] is not None
    assert run_boxes(spec, tmp_path).cached == [True] * 4


def boxes_file(tmp_path, category):
    path = tmp_path / "boxes.json"
    boxes = [[-5, 4, 30, 20], [10, 4, 30, 20], [3.5, 2.25, 18, 22]]
    records = [{"image_id": n, "category_id": category, "bbox": box, "score": 0.5} for n in (1, 2) for box in boxes]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", TASKS)
def test_a_head_of_crops_predicts_in_boxes_of_images_nobody_has_seen(outcomes, task, tmp_path):
    random = np.random.default_rng(0)
    images = [save_image(tmp_path / "in" / f"{n}.png", random.integers(0, 256, (40 + n, 50, 3), np.uint8)) for n in (1, 2)]
    category = load_box_manifest(outcomes[task].prepared.path).classes[0].category_id
    boxes = boxes_file(tmp_path, category)
    result = predict_boxes(outcomes[task].trained.path, images, boxes, tmp_path / "out")
    records = json.loads(result.results.read_text(encoding="utf-8"))
    assert [record["image_id"] for record in records] == ["1.png"] * 3 + ["2.png"] * 3
    assert result.boxes == 6
    again = json.loads(
        predict_boxes(outcomes[task].trained.path, images[1:], only(boxes, 2), tmp_path / "b").results.read_text()
    )
    assert again == records[3:], "what else is predicted changes nothing"


def only(path, image):
    kept = [record for record in json.loads(path.read_text(encoding="utf-8")) if record["image_id"] == image]
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path


def test_predictions_in_files_are_those_of_the_evaluation(outcomes, tmp_path):
    segment = outcomes["segment"]
    manifest = load_box_manifest(segment.prepared.path)
    found = load_predictions(segment.evaluated.path)["found"]
    entry, expected = manifest.splits["val"][0], found[0]
    path = tmp_path / "boxes.json"
    records = [
        {
            "image_id": entry.image.image_path.name,
            "category_id": manifest.classes[box.label].category_id,
            "bbox": [box.box_xyxy[0], box.box_xyxy[1], box.box_xyxy[2] - box.box_xyxy[0], box.box_xyxy[3] - box.box_xyxy[1]],
        }
        for box in entry.detections
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    result = predict_boxes(segment.trained.path, [entry.image.image_path], path, tmp_path / "out")
    written = json.loads(result.results.read_text(encoding="utf-8"))
    from hypercolumns.datasets.instances.run_lengths import decode_counts, mask_from_runs

    for record, each in zip(written, expected, strict=True):
        mask = mask_from_runs(decode_counts(record["segmentation"]["counts"]), entry.image.image_hw)
        # The store's maps are halves, those computed on the way are not.
        assert (mask != each.mask_array(entry.image.image_hw)).mean() < 0.02


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"store__canvas": {"size_hw": [48, 40]}}, r"store\.canvas\.mode: expected stretch for maps: crop"),
        ({"maps": "boxes"}, "maps"),
    ],
)
def test_specs_of_crops_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(SpecError, match=message):
        crop_spec(**overrides)


def entry(path="in/1.png"):
    image = Entry(image_id="1", image_path=path, image_sha256="a" * 64, image_hw=(40, 50))
    return BoxEntry(image=image, number=1, instances=(), detections=())


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 20), (5, 5, 5.00001, 20), (5, 5, float("nan"), 20), (60, 5, 70, 20), (-9, -9, -3, -3)]
)
def test_boxes_that_cannot_be_cropped_are_named_with_their_image(box):
    with pytest.raises(DatasetError, match=r"in/1\.png: a box of it cannot be cropped"):
        crop_entry(entry(), box, crop_spec())


def test_a_crop_is_a_view_of_its_image_named_by_box_and_expansion():
    crop = crop_entry(entry(), (-0.00001, 5.5, 1 / 3, 20), crop_spec(pairs__expansion=16 / 195))
    assert row_key(crop, "identity") == f"{'a' * 64}:crop(0,5.5,0.3333,20;0.082051)"
    assert row_key(crop, "hflip") == f"{'a' * 64}:crop(0,5.5,0.3333,20;0.082051)+hflip"
    longest = Crop.of((-123456789.12345, -123456789.12345, 123456789.12345, 123456789.12345), 0.123456)
    assert len(f"{'a' * 64}:{longest.view('hflip')}") <= 192, "the longest key that a store takes"
    with pytest.raises(GeometryError, match="billion"):
        Crop.of((0, 0, 1e12, 1), 0.0)


def test_crops_are_the_same_whatever_the_order_and_the_repetition_of_boxes(outcomes):
    segment = outcomes["segment"]
    manifest, spec = load_box_manifest(segment.prepared.path), segment.job.spec
    turned = manifest.model_copy(
        update={
            "splits": {
                split: tuple(e.model_copy(update={"detections": (*e.detections[::-1], *e.detections)}) for e in entries)
                for split, entries in manifest.splits.items()
            }
        }
    )
    assert wanted_crops(turned, spec, "val") == wanted_crops(manifest, spec, "val")


def test_heads_on_crops_are_compared_on_one_store(outcomes):
    segment = outcomes["segment"]
    spec = CompareSpec(base=segment.job.spec, grids=(1,), layer_grid=2, leave_out=False)
    compared = compare_variants(segment.job, spec, "segment", segment.prepared, segment.extracted)
    assert [row.name for row in compared.rows] == ["all layers, K = 1", "all layers, K = 2", "deepest", "deepest + finest"]
    assert compare_variants(segment.job, spec, "segment", segment.prepared, segment.extracted).cached


def test_whole_images_and_crops_of_the_same_size_share_a_store_and_no_row(tmp_path):
    crops = run_boxes(crop_spec(), tmp_path)
    whole = run_boxes(crop_spec(maps="image"), tmp_path)
    assert whole.extracted.key == crops.extracted.key
    assert whole.extracted.images_computed == 10
    assert whole.trained.key != crops.trained.key


FC_LAYERS = ["pool2", "relu4", "relu7"]


def caffenet_spec(**overrides):
    """Describe heads on CaffeNet's preset, whose last layer is fully connected, on very few boxes."""
    common = {
        "backbone": {"name": "caffenet", "weights": "random:0"},
        "store__canvas": {"mode": "stretch", "size_hw": [227, 227]},
        "instances__limit_train": 2,
        "instances__limit_val": 1,
        "pairs__boxes": 4,
        "evaluate__bootstrap": 0,
        "evaluate__panels": 0,
    }
    return crop_spec(**{**common, **overrides})


@pytest.fixture(scope="module")
def caffenet(tmp_path_factory):
    return run_boxes(caffenet_spec(), tmp_path_factory.mktemp("caffenet"))


def test_fully_connected_layers_of_crops_are_maps_of_one_cell_that_heads_hear(caffenet):
    model, _, card = load_head(caffenet.trained.path)
    assert [layer.name for layer in card.layers] == FC_LAYERS
    assert [layer.map_hw for layer in card.layers] == [(13, 13), (13, 13), (1, 1)]
    assert model.columns == 256 + 384 + 4096
    assert run_boxes(caffenet.job.spec, caffenet.job.workspace).cached == [True] * 4
    source = open_box_maps(caffenet.job, caffenet.prepared, "train", passes=1).source
    boxes = torch.tensor([[0.0, 0, 227, 227]])
    maps = source.maps([(0, "identity")])
    with torch.inference_mode():
        before = model(maps, boxes)
        torch.testing.assert_close(before[0], by_hand(model, maps), rtol=1e-4, atol=1e-5)
        maps[2] = torch.zeros_like(maps[2])
        assert not torch.allclose(model(maps, boxes), before), "fc7 is heard"


def by_hand(model, maps):
    """Have torch read the maps at the points of the whole canvas, apply all classifiers, interpolate what they say."""
    side, grid = model.side, model.grid
    grown = [
        torch.nn.functional.interpolate(values.double().permute(0, 3, 1, 2), size=(side, side), mode="bilinear")[0]
        for values in maps
    ]
    columns = torch.cat(grown).permute(1, 2, 0)
    standard = (columns - model.mean.double()) / model.std.double()
    logits = standard @ model.first.weight.double().T + model.first.bias.double()
    prior = model.prior.double().permute(1, 2, 0)[:, :, None, None]
    scores = torch.sigmoid(logits.reshape(side, side, grid, grid, model.classes) + prior)
    places = ((torch.arange(side, dtype=torch.float64) + 0.5) * grid / side - 0.5).clamp(0, grid - 1)
    weights = (1 - (places[:, None] - torch.arange(grid)).abs()).clamp(min=0)
    return torch.einsum("yk,xl,yxklc->cyx", weights, weights, scores).float()


def test_a_head_on_fully_connected_layers_alone_knows_the_box_but_no_place_in_it(caffenet):
    spec = caffenet_spec(head__layers=["relu7"], head__grid=1, train__prior_boxes=None)
    alone = run_boxes(spec, caffenet.job.workspace)
    assert alone.extracted.cached, "the layers are in the store already"
    model, _, _ = load_head(alone.trained.path)
    maps = open_box_maps(alone.job, alone.prepared, "train", passes=1).select(["relu7"]).source.maps([(0, "identity")])
    heatmaps = model(maps, torch.tensor([[0.0, 0, 227, 227]]))
    torch.testing.assert_close(heatmaps, heatmaps[..., :1, :1].expand_as(heatmaps))


def test_a_head_on_fully_connected_layers_predicts_in_boxes_of_new_images(caffenet, tmp_path):
    image = save_image(tmp_path / "in" / "1.png", np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    category = load_box_manifest(caffenet.prepared.path).classes[0].category_id
    boxes = only(boxes_file(tmp_path, category), 1)
    assert predict_boxes(caffenet.trained.path, [image], boxes, tmp_path / "out").boxes == 3


def test_fully_connected_layers_of_whole_images_are_refused_with_the_remedy(tmp_path):
    job = BoxJob(spec=caffenet_spec(maps="image"), workspace=tmp_path)
    with pytest.raises(BackboneError, match=r"layer relu7 of caffenet: .*fully connected.*maps: crop.*size_hw: \[227, 227\]"):
        check_boxes(job, prepare_boxes(job))
    assert not list(tmp_path.rglob("*.shard*"))
    without = job.model_copy(update={"spec": caffenet_spec(maps="image", head__layers=["pool2", "relu4"])})
    assert check_boxes(without, prepare_boxes(without)).missing == 3


def test_fully_connected_layers_on_crops_of_another_size_are_refused_with_the_size(tmp_path):
    job = BoxJob(spec=caffenet_spec(store__canvas={"mode": "stretch", "size_hw": [64, 64]}), workspace=tmp_path)
    with pytest.raises(BackboneError, match=r"caffenet.*use a canvas of 227 x 227"):
        check_boxes(job, prepare_boxes(job))
    assert not list(tmp_path.rglob("*.shard*"))


def test_receptive_field_alignment_and_a_mirror_work_with_fully_connected_layers(caffenet):
    spec = caffenet_spec(head__alignment="receptive_field", store__views=["identity", "hflip"])
    outcome = run_boxes(spec, caffenet.job.workspace)
    assert outcome.extracted.images_computed == len(crops_of(outcome, "train"))
    assert np.isfinite(outcome.evaluated.metrics["mask_iou"])
