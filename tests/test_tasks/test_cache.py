"""What is made twice, and what is not: every stage is found again by content, and only what is new is computed."""

import shutil

import pytest

from hypercolumns.sampling import held_out
from tasks.manifests import load_manifest
from tests.factories import make_image, make_mask, save_image, save_mask, write_folder, write_voc
from tests.pipeline_factory import LAYERS, digests, extract_only, read_picture, run_tasks, tiny_spec


def test_a_cold_run_computes_every_stage_and_the_same_run_again_finds_every_stage_and_changes_no_byte(data, workspace):
    spec = tiny_spec(data)
    cold = run_tasks(spec, workspace)
    assert [stage.cached for stage in cold.stages] == [False] * 6
    assert cold.misses == dict.fromkeys(LAYERS, 9)
    assert {name: count.hits for name, count in cold.extracted.cache.items()} == dict.fromkeys(LAYERS, 0)
    before = digests(workspace)

    warm = run_tasks(spec, workspace)
    assert [stage.cached for stage in warm.stages] == [True] * 6
    assert warm.misses == dict.fromkeys(LAYERS, 0)
    assert [stage.key for stage in warm.stages] == [stage.key for stage in cold.stages]
    assert warm.evaluated.metrics == cold.evaluated.metrics
    assert digests(workspace) == before


def test_the_same_experiment_in_another_workspace_gives_the_same_keys_and_the_same_models(data, tmp_path):
    first, second = (run_tasks(tiny_spec(data), tmp_path / name) for name in ("a", "b"))
    assert [stage.key for stage in first.stages] == [stage.key for stage in second.stages]
    weights = [
        {name: value for name, value in digests(tmp_path / folder / "models").items() if name.endswith(".safetensors")}
        for folder in ("a", "b")
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 2
    assert first.evaluated.metrics == second.evaluated.metrics


def test_adding_a_layer_extracts_only_that_layer(data, workspace):
    extract_only(tiny_spec(data), workspace)
    shards = {path: path.stat().st_mtime_ns for path in workspace.glob("stores/*/features.*/c.*")}
    more = extract_only(tiny_spec(data, backbone__layers=[*LAYERS, "features.12.cat"]), workspace)
    misses = {name: count.misses for name, count in more.cache.items()}
    assert misses == {"features.1": 0, "features.4.cat": 0, "features.12.cat": 9}
    assert {path: path.stat().st_mtime_ns for path in shards} == shards, "the layers that were there must not be written again"


@pytest.mark.parametrize("more", [1, 3])
def test_a_larger_training_set_extracts_exactly_the_new_images(data, workspace, more):
    first = extract_only(tiny_spec(data, dataset__limit_train=3), workspace)
    assert first.images_computed == 3 + 3
    second = extract_only(tiny_spec(data, dataset__limit_train=3 + more), workspace)
    assert second.images_computed == more
    assert {name: (c.hits, c.misses) for name, c in second.cache.items()} == dict.fromkeys(LAYERS, (6, more))
    smaller = extract_only(tiny_spec(data, dataset__limit_train=2), workspace)
    assert smaller.images_computed == 0
    assert smaller.cached


def test_flips_are_extracted_as_views_of_their_own_of_the_training_images_alone(data, workspace):
    extract_only(tiny_spec(data), workspace)
    flipped = extract_only(tiny_spec(data, store__views=["identity", "hflip"]), workspace)
    assert flipped.images_computed == 6
    scored = extract_only(tiny_spec(data, store__views=["identity", "hflip"], evaluate__flip=True), workspace)
    assert scored.images_computed == 3


def test_a_changed_label_keeps_the_store_and_changes_samples_models_and_scores(data, workspace):
    spec = tiny_spec(data)
    before = run_tasks(spec, workspace)
    mask = make_mask((48, 64), seed=77)
    save_mask(data / "masks" / "train" / "002.png", mask)
    after = run_tasks(spec, workspace)
    assert after.extracted.cached
    assert after.extracted.key == before.extracted.key
    assert not after.prepared.cached
    for name in ("sampled", "pretrained", "trained", "evaluated"):
        assert getattr(after, name).key != getattr(before, name).key, name
        assert not getattr(after, name).cached, name


def test_a_changed_label_of_the_scored_split_changes_the_scores_alone(data, workspace):
    before = run_tasks(tiny_spec(data), workspace)
    save_mask(data / "masks" / "val" / "000.png", make_mask((48, 64), seed=78))
    after = run_tasks(tiny_spec(data), workspace)
    assert [stage.cached for stage in after.stages] == [False, True, True, True, True, False]
    assert after.evaluated.metrics != before.evaluated.metrics


def test_a_moved_data_set_finds_everything_again(data, workspace, tmp_path):
    before = run_tasks(tiny_spec(data), workspace)
    moved = tmp_path / "ünïcode folder, moved"
    shutil.move(data, moved)
    after = run_tasks(tiny_spec(moved), workspace)
    assert [stage.cached for stage in after.stages] == [False, True, True, True, True, True]
    assert after.evaluated.key == before.evaluated.key


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"train__learning_rate": 1e-3}, 4),
        ({"pretrain__seed": 5}, 3),
        ({"sample__seed": 5}, 2),
        ({"head__alignment": "receptive_field"}, 2),
        ({"store__dtype": "float32"}, 1),
        ({"backbone__weights": "random:1"}, 1),
        ({"store__canvas": {"mode": "stretch", "size_hw": [64, 64]}}, 1),
        ({"evaluate__restore_priors": 0.0}, 5),
    ],
)
def test_a_changed_parameter_makes_again_what_follows_from_it_and_nothing_before_it(data, workspace, change, kept):
    run_tasks(tiny_spec(data), workspace)
    after = run_tasks(tiny_spec(data, **change), workspace)
    assert [stage.cached for stage in after.stages] == [True] * kept + [False] * (6 - kept)


def test_another_grouping_of_the_images_trains_again_because_other_images_are_held_out(tmp_path, workspace):
    root = write_voc(tmp_path / "voc", splits={"train": 12, "val": 2}, image_hw=(48, 48))
    specs = [
        tiny_spec(root, dataset__kind="voc", dataset__group_pattern=pattern, pretrain__patience=2, pretrain__holdout=0.4)
        for pattern in (r"_(\d+)$", r"(\d)$")
    ]
    runs = [run_tasks(spec, workspace) for spec in specs]
    held = [[held_out(e.image_sha256, 0.4, e.group) for e in load_manifest(run.prepared.path).splits["train"]] for run in runs]
    assert held[0] != held[1], "the two groupings must hold out different images for this test to mean anything"
    assert runs[1].sampled.cached
    assert not runs[1].pretrained.cached


def test_two_splits_that_share_an_image_share_its_row_and_the_report_warns(data, workspace):
    for kind in ("images", "masks"):
        shutil.copy(data / kind / "train" / "000.png", data / kind / "val" / "zzz.png")
    outcome = run_tasks(tiny_spec(data), workspace)
    assert outcome.extracted.split_images == {"train": 6, "val": 4}
    assert outcome.misses == dict.fromkeys(LAYERS, 9), "ten entries, nine different images"
    page = outcome.report().path.read_text(encoding="utf-8")
    assert "1 images are in both train and val" in page


def test_a_report_of_separate_splits_does_not_warn(outcome):
    assert "are in both" not in outcome.report().path.read_text(encoding="utf-8")


def test_images_of_different_sizes_and_shapes_share_one_store_and_are_scored_at_their_own_size(tmp_path, workspace):
    root = write_folder(tmp_path / "data", splits={"train": 2, "val": 2}, image_hw=(40, 40))
    sizes = {"train": [(30, 90), (90, 30), (200, 64)], "val": [(33, 71), (129, 50)]}
    for split, shapes in sizes.items():
        for number, image_hw in enumerate(shapes):
            mask = make_mask(image_hw, seed=number)
            save_image(root / "images" / split / f"odd{number}.png", make_image(mask, seed=number))
            save_mask(root / "masks" / split / f"odd{number}.png", mask)
    outcome = run_tasks(tiny_spec(root), workspace)
    labelled = sum(int((read_picture(path) != 255).sum()) for path in (root / "masks" / "val").glob("*.png"))
    assert sum(outcome.evaluated.metrics["per_class_pixels"].values()) == labelled


def test_generated_figures_are_made_in_the_workspace_and_give_the_same_keys_everywhere(tmp_path):
    shapes = {"images": 8, "size": 64, "seed": 1}
    spec = tiny_spec(tmp_path, dataset={"kind": "shapes", "shapes": shapes})
    first, second = (run_tasks(spec, tmp_path / name) for name in ("a", "b"))
    assert sum(first.prepared.images.values()) == 8
    assert [stage.key for stage in first.stages[1:]] == [stage.key for stage in second.stages[1:]]
    assert first.evaluated.metrics == second.evaluated.metrics
    assert [stage.cached for stage in run_tasks(spec, tmp_path / "a").stages] == [True] * 6


def test_early_stopping_holds_images_out_unless_none_would_be_left(data, workspace):
    stopped = run_tasks(tiny_spec(data, train__patience=1, train__holdout=0.5, train__epochs=2), workspace)
    assert all(epoch["held_out"] is not None for epoch in stopped.trained.history["epochs"])
    whole = run_tasks(tiny_spec(data, train__patience=1, train__holdout=0.999, train__epochs=2), workspace)
    assert all(epoch["held_out"] is None for epoch in whole.trained.history["epochs"])
