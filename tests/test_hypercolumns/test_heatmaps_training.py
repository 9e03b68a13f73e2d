"""Training grid classifiers over boxes: loss, order, the fit by cells, training end to end, and rescoring."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hypercolumns.backbones import LayerInfo
from hypercolumns.box_experiments import BoxTrainSpec
from hypercolumns.columns import Frame
from hypercolumns.errors import GeometryError, SamplingError, TrainingError
from hypercolumns.heads import GridClassifier
from hypercolumns.heatmaps import BoxExamples, BoxProblem, Mirror, fit_box_classifier
from hypercolumns.heatmaps.problem import heatmap_loss
from hypercolumns.heatmaps.rescoring import fit_rescorer, region_features, suppress_regions

SIDE, CANVAS = 12, (32, 32)
LAYERS = (
    LayerInfo("fine", 3, (16, 16), (2.0, 2.0), (2.0, 2.0), (1.0, 1.0)),
    LayerInfo("deep", 5, (4, 4), (8.0, 8.0), (8.0, 8.0), (4.0, 4.0)),
)


class Source:
    """Seeded maps of a few images, and a count of how often they were read."""

    layers, canvas_hw = LAYERS, CANVAS

    def __init__(self, images=4):
        generator = torch.Generator().manual_seed(0)
        self.values = [torch.randn(images, *layer.map_hw, layer.channels, generator=generator) for layer in LAYERS]
        self.reads = 0

    def maps(self, items):
        self.reads += len(items)
        # What a backbone that does not know left from right would make of the mirrored image.
        return [
            torch.stack([values[index] if view == "identity" else values[index].flip(1) for index, view in items])
            for values in self.values
        ]


def examples(count=24, targets=None, blocks=(slice(0, 1), slice(1, 3)), mirror=None):
    random = np.random.default_rng(1)
    corners = random.uniform(0, 14, (count, 2))
    labels = np.arange(count) % len(blocks)
    known = random.random((count, 3, SIDE, SIDE)).round().astype(np.float32) if targets is None else targets
    return BoxExamples(
        np.arange(count) % 4,
        np.concatenate([corners, corners + random.uniform(6, 16, (count, 2))], axis=1),
        np.tile([0.0, 0, 32, 32], (count, 1)),
        labels,
        blocks,
        lambda number: known[number, blocks[labels[number]]],
        [f"box {number}" for number in range(count)],
        mirror,
    )


def _learnable():
    """Return targets that depend on the place in the box alone."""
    targets = np.zeros((24, 3, SIDE, SIDE), np.float32)
    targets[:, :, : SIDE // 2, SIDE // 2 :] = 1
    return targets


def head(classes=3, grid=2, **options):
    return GridClassifier(LAYERS, classes, Frame(CANVAS), grid=grid, side=SIDE, **options)


QUICK = BoxTrainSpec(cell_boxes=12, cell_pixels=16, epochs=3, batch=8, learning_rate=0.02)


def test_the_loss_is_the_mean_cross_entropy_of_what_is_known():
    random = np.random.default_rng(0)
    probabilities, targets = (random.uniform(0.01, 0.99, (2, 3, 4, 4)).astype(np.float32) for _ in range(2))
    targets[random.random(targets.shape) < 0.5] = np.nan
    total, known = heatmap_loss(torch.from_numpy(probabilities), torch.from_numpy(targets))
    terms = targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)
    assert known == (~np.isnan(targets)).sum()
    assert float(total) == pytest.approx(-np.nansum(terms), rel=1e-5)


def test_every_box_comes_once_an_epoch_and_the_boxes_of_an_image_follow_each_other():
    source = Source()
    problem = BoxProblem(source, examples(), 6, seed=3)
    first, again, second = ([n for batch in problem.batches(e) for n in batch.numbers] for e in (0, 0, 1))
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second) == list(range(24))
    images = examples().images[first]
    assert (np.diff(images) != 0).sum() == 3, "four images, one after the other"
    assert source.reads == 3 * 4, "each image was read once an epoch"


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_bits():
    models = [head() for _ in range(2)]
    histories = [fit_box_classifier(model, Source(), examples(), QUICK) for model in models]
    losses = [record.loss for record in histories[0].epochs]
    assert losses[-1] < losses[0]
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name


def test_a_stopped_run_resumes_to_the_same_bits_and_does_not_fit_cells_again():
    kept = {}

    class Keeper:
        def __init__(self, stop):
            self.stop = stop

        def save(self, epoch, tensors, state):
            kept[epoch] = (epoch, {name: value.clone() for name, value in tensors.items()}, state)
            if epoch == self.stop:
                raise KeyboardInterrupt

        def latest(self):
            return kept[max(kept)] if kept else None

    straight, resumed = head(), head()
    fit_box_classifier(straight, Source(), examples(), QUICK)
    with pytest.raises(KeyboardInterrupt):
        fit_box_classifier(resumed, Source(), examples(), QUICK, checkpoints=Keeper(2))
    source = Source()
    history = fit_box_classifier(resumed, source, examples(), QUICK, checkpoints=Keeper(99))
    assert history.resumed_from == 2
    assert source.reads == 6, "one epoch (three batches, two of which share an image with the one before), nothing else"
    assert torch.equal(straight.first.weight, resumed.first.weight)


@pytest.mark.parametrize("grid", [1, 4])
def test_only_a_grid_learns_what_depends_on_the_place_in_the_box(grid):
    left = np.zeros((24, 1, SIDE, SIDE), np.float32)
    left[..., : SIDE // 2] = 1
    model = head(classes=1, grid=grid)
    source = Source()
    train = QUICK.model_copy(update={"epochs": 20, "prior_boxes": None})
    chosen = examples(targets=left, blocks=(slice(0, 1),))
    loss = fit_box_classifier(model, source, chosen, train).epochs[-1].loss
    assert loss > 0.5 if grid == 1 else loss < 0.35


def test_the_fit_by_cells_is_where_training_begins_and_may_be_all_there_is():
    cells_only = QUICK.model_copy(update={"epochs": 0})
    nothing = cells_only.model_copy(update={"cell_iterations": 0})
    problem = BoxProblem(Source(), examples(targets=_learnable()), 24, seed=0)
    losses = []
    for train in (nothing, cells_only):
        model = head()
        assert fit_box_classifier(model, Source(), examples(targets=_learnable()), train).epochs == []
        losses.append(float(problem.loss(model, next(iter(problem.batches(0)))).detach()))
    assert losses[1] < losses[0]


def test_a_kernel_of_three_cells_is_standardised_by_the_channel_and_trains():
    model = head(kernel=3)
    fit_box_classifier(model, Source(), examples(), QUICK)
    mean = model.mean[: 9 * 3].view(9, 3)
    assert torch.equal(mean, mean[:1].expand(9, -1))
    assert model.std.min() > 0.3


def test_held_out_boxes_are_scored_and_not_trained_on():
    out = examples().images == 3
    problem = BoxProblem(Source(), examples(), 6, 0, out)
    assert not set(np.flatnonzero(out)) & {n for batch in problem.batches(0) for n in batch.numbers}
    model = head()
    train = QUICK.model_copy(update={"patience": 2})
    history = fit_box_classifier(model, Source(), examples(), train, held_out=out)
    assert history.epochs[0].held_out < 0
    score = problem.held_out_score(model)
    assert score == pytest.approx(max(record.held_out for record in history.epochs), rel=1e-5)


MIRROR = Mirror(32, [(0,), (1, 0)])


def test_a_mirrored_example_is_the_mirrored_picture_of_the_box():
    """By brute force: paint the target into a canvas, mirror the canvas, and look at the mirrored box."""
    canvas = np.random.default_rng(0).random((2, 32, 32)).astype(np.float32)
    box = np.array([[5.0, 3.0, 17.0, 27.0]])
    shown = canvas[:, 3:27:2, 5:17]
    own = BoxExamples(
        np.zeros(1, np.int64),
        box,
        np.array([[2.0, 0.0, 29.0, 32.0]]),
        np.array([1]),
        (slice(0, 1), slice(1, 3)),
        lambda number: shown,
        ["box"],
        MIRROR,
    )
    (x0, y0, x1, y1), edges = (part[0] for part in own.placed(np.array([0]), "hflip"))
    assert edges.tolist() == [3.0, 0.0, 30.0, 32.0]
    mirrored = canvas[::-1, :, ::-1]
    np.testing.assert_array_equal(own.target(0, "hflip"), mirrored[:, int(y0) : int(y1) : 2, int(x0) : int(x1)])
    np.testing.assert_array_equal(own.target(0, "identity"), shown)
    assert own.placed(np.array([0]), "identity")[0] is not box
    np.testing.assert_array_equal(own.placed(np.array([0]), "identity")[0], box)


def test_what_nothing_shows_in_the_mirror_is_unknown_there():
    target = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    mirrored = Mirror(10, [(0, -1)]).target(target, 0)
    assert mirrored[0].tolist() == [[1, 0], [3, 2]]
    assert np.isnan(mirrored[1]).all()


def test_heads_see_in_the_mirror_what_they_see_outside_it():
    """A head whose grid and outputs are mirrored shows the mirrored heatmap: boxes, edges and maps are mirrored alike."""
    source, own, model = Source(), examples(mirror=MIRROR), head(grid=3)
    torch.nn.init.normal_(model.first.weight)
    twin = head(grid=3)
    twin.load_state_dict(model.state_dict())
    for values, twins in ((model.first.weight.data, twin.first.weight.data), (model.first.bias.data, twin.first.bias.data)):
        twins.copy_(values.view(3, 3, 3, -1).flip(1).reshape(values.shape))
    for number in range(6):
        shown = []
        for view, each in (("identity", model), ("hflip", twin)):
            boxes, edges = (torch.from_numpy(part) for part in own.placed(np.array([number]), view))
            shown.append(each(source.maps([(int(own.images[number]), view)]), boxes, edges_xyxy=edges).detach())
        torch.testing.assert_close(shown[1], shown[0].flip(-1), rtol=1e-4, atol=1e-5)


def test_with_a_mirror_each_image_comes_once_an_epoch_in_a_view_drawn_anew():
    source, own = Source(images=40), examples(count=80, mirror=MIRROR)
    own = BoxExamples(**{**vars(own), "images": np.arange(80) % 40})
    problem = BoxProblem(source, own, 7, seed=3)
    seen = []
    for epoch in range(4):
        views = {}
        for batch in problem.batches(epoch):
            for number, view in zip(batch.numbers, batch.views, strict=True):
                views.setdefault(int(own.images[number]), set()).add(view)
        assert len(views) == 40
        assert all(len(each) == 1 for each in views.values())
        seen.append({image: each.pop() for image, each in views.items()})
    assert all({"identity", "hflip"} == set(each.values()) for each in seen)
    assert len({tuple(sorted(each.items())) for each in seen}) == 4
    assert "(hflip)" in "".join(problem.describe(batch) for batch in problem.batches(0))
    batch = next(iter(problem.batches(0)))
    expected = {(int(own.images[n]), view) for n, view in zip(batch.numbers, batch.views, strict=True)}
    assert len(batch.maps[0]) == len(expected)


def test_mirrored_training_learns_what_is_on_the_left_from_images_and_their_mirror_images():
    sides = np.zeros((24, 3, SIDE, SIDE), np.float32)
    sides[:, 1, :, : SIDE // 2] = sides[:, 2, :, SIDE // 2 :] = 1
    own = examples(targets=sides, mirror=MIRROR)
    model = head(grid=4)
    history = fit_box_classifier(model, Source(), own, QUICK.model_copy(update={"epochs": 10}))
    assert history.epochs[-1].loss < 0.3
    confused = examples(targets=sides, mirror=Mirror(32, [(0,), (0, 1)]))
    assert fit_box_classifier(head(grid=4), Source(), confused, QUICK).epochs[-1].loss > history.epochs[-1].loss


def test_the_fit_by_cells_sees_mirrored_targets_beside_mirrored_maps():
    """Half of the images show an object on the left, their mirror images on the right: nobody can tell beforehand."""
    left = np.zeros((24, 1, SIDE, SIDE), np.float32)
    left[..., : SIDE // 2] = 1
    cells_only = QUICK.model_copy(update={"epochs": 0, "cell_boxes": 24, "prior_boxes": None})
    shown = {}
    for mirror in (None, Mirror(32, [(0,)])):
        own = examples(targets=left, blocks=(slice(0, 1),), mirror=mirror)
        own = BoxExamples(**{**vars(own), "images": np.arange(24)})
        source, model = Source(images=24), head(classes=1, grid=4)
        fit_box_classifier(model, source, own, cells_only)
        boxes, edges = (torch.from_numpy(part) for part in (own.boxes_xyxy, own.edges_xyxy))
        maps = source.maps([(n, "identity") for n in range(24)])
        shown[mirror is None] = model(maps, boxes, torch.arange(24), edges_xyxy=edges).detach()[..., 1].mean().item()
    assert shown[True] > 0.75
    assert 0.3 < shown[False] < 0.7


def test_a_mirrored_view_without_a_mirror_is_refused():
    with pytest.raises(TrainingError, match="expected a mirror"):
        examples().placed(np.array([0]), "hflip")
    with pytest.raises(TrainingError, match="expected a mirror"):
        examples().target(0, "hflip")


def test_boxes_that_do_not_fit_together_are_refused():
    good = examples()
    with pytest.raises(TrainingError, match="got none"):
        BoxExamples(*(np.zeros((0, 4))[:, 0].astype(np.int64), *[np.zeros((0, 4))] * 2, np.zeros(0, np.int64), (), None, ()))
    with pytest.raises(TrainingError, match=r"labels in 0\.\.0"):
        BoxExamples(good.images, good.boxes_xyxy, good.edges_xyxy, good.labels, (slice(0, 1),), good.load, good.names)
    with pytest.raises(TrainingError, match="for 24 boxes"):
        BoxExamples(good.images, good.boxes_xyxy[1:], good.edges_xyxy, good.labels, good.blocks, good.load, good.names)
    with pytest.raises(TrainingError, match="only held-out"):
        BoxProblem(Source(), good, 4, 0, np.ones(24, bool))


def test_the_outputs_of_one_class_are_those_of_all():
    model, boxes = head(), torch.tensor([[2.0, 3, 20, 25], [8, 1, 30, 30]])
    torch.nn.init.normal_(model.first.weight)
    maps = [values[:1] for values in Source().values]
    whole = model(maps, boxes)
    torch.testing.assert_close(model(maps, boxes, outputs=slice(1, 3)), whole[:, 1:3], rtol=1e-5, atol=1e-6)


def test_a_rescorer_is_penalised_logistic_regression():
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.normal(size=(200, 6)).astype(np.float32)) * 3 + 1
    right = (features[:, 0] - features[:, 1] + torch.from_numpy(random.normal(size=200)) > 0).numpy()
    found = fit_rescorer(features, right, l2=0.1)
    standard = ((features - features.mean(0)) / features.std(0)).numpy()
    reference = LogisticRegression(C=1 / (0.1 * 200), tol=1e-8).fit(standard, right)
    np.testing.assert_allclose(found(features), reference.predict_proba(standard)[:, 1], atol=1e-3)
    for wrong in (np.ones(200, bool), np.zeros(200, bool)):
        with pytest.raises(SamplingError, match="right and wrong"):
            fit_rescorer(features, wrong)


def test_region_features_are_means_inside_the_mask_and_in_the_box():
    model = head(classes=1)
    maps = [torch.ones_like(values[:1]) * 2 for values in Source().values]
    boxes, edges = torch.tensor([[2.0, 3, 20, 25]]).double(), torch.tensor([[0.0, 0, 32, 32]]).double()
    heat = torch.zeros(1, SIDE, SIDE)
    heat[:, :, :6] = 0.8
    found = region_features(model, maps, boxes, edges, heat, torch.tensor([0.3]))
    assert found.shape == (1, 8 + 8 + 3 + 2)
    torch.testing.assert_close(found[0, :16], torch.full((16,), 2.0))
    torch.testing.assert_close(found[0, 16:], torch.tensor([0.5, 0.8, 0.3, np.log(18), np.log(22)], dtype=torch.float32))


def test_regions_are_suppressed_by_the_overlap_of_their_masks():
    masks = np.zeros((4, 6, 6), bool)
    masks[0, :3], masks[1, :2], masks[2, 3:], masks[3, 2:5] = True, True, True, True
    assert suppress_regions(masks, np.array([0.5, 0.9, 0.7, 0.1]), 0.3).tolist() == [1, 2]
    assert suppress_regions(masks, np.array([0.5, 0.9, 0.7, 0.1]), 1.0).tolist() == [1, 2, 0, 3]
    assert suppress_regions(np.zeros((0, 6, 6), bool), np.zeros(0)).tolist() == []
    with pytest.raises(GeometryError, match="boolean masks"):
        suppress_regions(masks, np.array([1.0, np.nan, 1, 1]))
    with pytest.raises(GeometryError, match="limit of overlap"):
        suppress_regions(masks, np.zeros(4), 2.0)
