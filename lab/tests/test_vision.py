import json

import numpy as np
import pytest

from p2u.errors import FormatError, UnsupportedError, UsageError
from p2u_lab import vision
from p2u_lab.base import MissingDataError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("PIL")

from p2u_lab.data.images import of_array  # noqa: E402
from p2u_lab.vision import classify, probe, sets, store, train  # noqa: E402
from p2u_lab.vision.nets import NETS  # noqa: E402

#: Of the publications (ImageNet's 1000 classes), or of the given weights.
PARAMETERS = {
    ("resnet20", 10, 32): 269_722,
    ("resnet56", 10, 32): 853_018,
    ("effnet-lite0", 1000, 224): 4_652_008,
    ("mobilenet-v2", 1000, 224): 3_504_872,
    ("resnet18", 1000, 224): 11_689_512,
    ("effnet-b4", 1000, 224): 19_341_616,
    ("vgg16", 2, 32): 33_605_442,
}


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    monkeypatch.setenv("P2U_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def quiet(text, done, total):
    pass


def pneumonia(folder, count=96):
    """Dark and bright images: a class can be seen."""
    rng = np.random.default_rng(1)
    made = {}
    for split in ("train", "val", "test"):
        labels = rng.integers(0, 2, (count, 1)).astype(np.uint8)
        noise = rng.integers(0, 60, (count, 28, 28))
        made[f"{split}_images"] = (noise + 150 * labels[..., None]).astype(np.uint8)
        made[f"{split}_labels"] = labels
    np.savez(folder / "pneumoniamnist.npz", **made)


def untrained(folder, net="vit", classes=2, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = store.Config(net, classes, 32, (0.5,) * 3, (0.25,) * 3)
    store.save(NETS[net].build(classes, 32), config, folder)
    return folder


@pytest.mark.parametrize(("net", "classes", "size"), PARAMETERS)
def test_parameters_are_those_of_the_publications(net, classes, size):
    with torch.device("meta"):
        module = NETS[net].build(classes, size)
    assert sum(p.numel() for p in module.parameters()) == PARAMETERS[net, classes, size]


@pytest.mark.parametrize("net", ["resnet20", "mobilenet-v2", "resnet18", "effnet-b4", "vit"])
def test_networks_depend_on_all_their_weights(net):
    torch.manual_seed(0)
    size = NETS[net].size
    module = NETS[net].build(3, size).eval()
    out = module(torch.randn(2, 3, size, size))
    assert out.shape == (2, 3)
    out.square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_names_are_those_of_the_usual_libraries():
    names = {
        "resnet18": {"layer2.0.downsample.1.running_mean", "fc.bias"},
        "mobilenet-v2": {"features.0.0.weight", "features.17.conv.1.1.weight", "classifier.1.bias"},
        "effnet-b4": {
            "features.1.0.block.1.fc1.bias", "features.7.1.block.3.0.weight", "classifier.1.weight",
        },
        "vgg16": {"features.28.weight", "classifier.6.bias"},
        "vit": {"cls_token", "blocks.5.attn.qkv.bias", "patch_embed.proj.weight", "head.weight"},
    }  # fmt: skip
    for net, some in names.items():
        with torch.device("meta"):
            assert some <= set(NETS[net].build(2, 32).state_dict()), net


def test_a_folder_holds_the_model(tmp_path):
    folder = untrained(tmp_path / "m", "mobilenet-v2")
    module, config = store.load(folder)
    again, _ = store.load(folder)
    assert config == store.Config("mobilenet-v2", 2, 32, (0.5,) * 3, (0.25,) * 3)
    assert not module.training
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(module(x), again(x))


def test_weights_of_other_dtypes_are_widened(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = untrained(tmp_path / "m")
    path = str(folder / store.WEIGHTS)
    save_file({k: v.bfloat16() for k, v in load_file(path).items()}, path)
    module, _ = store.load(folder)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_folders_that_are_wrong(tmp_path):
    folder = untrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "resnet18"}))
    with pytest.raises(FormatError, match="not the tensors of a resnet18"):
        store.load(folder)
    for wrong in ({"model_type": "bert"}, {"mean": [1]}, {"size": None}):
        (folder / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(FormatError, match="configuration"):
            store.load(folder)


def test_inputs_are_normalised():
    config = store.GIVEN["effnet-lite0"]
    pixels = np.full((1, 4, 4, 3), 255, np.uint8)
    assert store.inputs(pixels, config).numpy() == pytest.approx(1.0)
    assert store.inputs(pixels, config).shape == (1, 3, 4, 4)


@pytest.mark.slow
def test_training_learns_and_is_repeatable(places):
    pneumonia(places)
    folder = train.train("vit", "pneumonia", 3, quiet, epochs=4)
    assert folder.name == "vit-pneumonia-s3"
    assert "vit-pneumonia-s3" in vision.MODELS
    first = (folder / store.WEIGHTS).read_bytes()
    story = json.loads(train.record(folder.name))
    assert story["test accuracy"] > 0.9
    assert story["loss per epoch"][-1] < story["loss per epoch"][0]
    state = torch.get_rng_state()
    train.train("vit", "pneumonia", 3, quiet, epochs=4)
    assert (folder / store.WEIGHTS).read_bytes() == first
    assert torch.equal(torch.get_rng_state(), state)
    # kept: not trained again
    assert train.trained("vit", "pneumonia", 3, quiet) == folder
    task = vision.TASKS["pneumonia"](limit=40)
    scores = task.scores(folder)
    assert len(scores.values) == 40
    assert np.array_equal(scores.values, task.scores(folder).values)
    assert scores.extra["loss"] < 0.7


def test_what_cannot_be_trained(places):
    with pytest.raises(UsageError, match="bert"):
        train.train("bert", "pneumonia", 0, quiet)
    with pytest.raises(UsageError, match="mnist"):
        train.train("vit", "mnist", 0, quiet)
    with pytest.raises(MissingDataError):
        train.train("vit", "pneumonia", 0, quiet)


def test_calibration_is_of_the_training_split(places):
    pneumonia(places)
    folder = untrained(places / "m")
    learnt = vision.TASKS["pneumonia"]().trainable(folder)
    assert learnt.output == "logits"
    with np.load(places / "pneumoniamnist.npz") as data:
        config = store.Config.read(folder)
        split = of_array(data["train_images"], np.zeros(96, np.int64), ("x",), "made")
        every = store.inputs(split.pixels(range(96), 32), config)
    (batch,) = learnt.batches[0]
    assert len(learnt.batches) == 2
    for image in batch[:5]:
        assert any(torch.equal(image, other) for other in every)


def test_a_smaller_limit_takes_a_part_of_the_same(places):
    pneumonia(places)
    folder = untrained(places / "m")
    some = vision.TASKS["pneumonia"](limit=10).scores(folder).values
    every = vision.TASKS["pneumonia"]().scores(folder).values
    assert np.array_equal(some, every[:10])


def test_ruined_weights_are_wrong_not_an_error(places):
    from safetensors.torch import load_file, save_file

    pneumonia(places)
    folder = untrained(places / "m")
    path = str(folder / store.WEIGHTS)
    save_file({k: v * float("nan") for k, v in load_file(path).items()}, path)
    assert vision.TASKS["pneumonia"]().scores(folder).mean == 0


def test_a_model_of_other_classes_is_refused(places):
    pneumonia(places)
    with pytest.raises(UnsupportedError, match="2 classes, the model 10"):
        vision.TASKS["pneumonia"]().scores(untrained(places / "m", classes=10))


def test_scores_with_several_classes_are_precisions(places, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, -1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    images = sets.Images(labels, tuple("abc"), lambda n: pixels[n], places)
    some = sets.Set(lambda split: images, 3, {}, several=True)
    monkeypatch.setitem(sets.SETS, "many", some)
    task = classify.Classification("many")
    assert task.metric == "mean average precision"
    folder = untrained(places / "m", classes=3)
    found = task.scores(folder)
    assert len(found.values) == 2  # nothing is of class c
    assert ((found.values > 0) & (found.values <= 1)).all()


def test_loss_leaves_out_what_is_not_judged():
    out = torch.tensor([[2.0, -50.0], [1.0, 50.0]])
    labels = torch.tensor([[1, -1], [0, 1]])
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([2.0, 1.0, 50.0]), torch.tensor([1.0, 0.0, 1.0])
    )
    assert torch.isclose(train.loss_of(out, labels), want)


def test_the_probe_finds_a_linear_map():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 4))
    out = rng.normal(size=(3000, 20)).astype(np.float32)
    labels = (out @ truth).argmax(1)
    found = probe.fitted(out[:2000], labels[:2000], 4)
    right = (probe._design(out[2000:]) @ found).argmax(1) == labels[2000:]
    assert right.mean() > 0.85
    # what is added to all logits alike says nothing
    assert np.allclose(probe._design(out + 5) @ found, probe._design(out) @ found, atol=1e-5)


def test_models_and_tasks_fit_together(places):
    models = {name: make() for name, make in vision.MODELS.items()}
    assert {"resnet20", "resnet56-bf16", "effnet-lite0", "vgg16-pneumonia"} <= set(models)
    assert all(model.name == name for name, model in models.items())
    for model in models.values():
        assert set(model.tasks) <= set(vision.TASKS)
    for name, make in vision.TASKS.items():
        task = make(limit=5)
        assert task.name == name
        with pytest.raises(MissingDataError):
            if name != "fashion":
                task.prepare()
            else:
                raise MissingDataError("Debian's may be installed")


def test_the_schedule_rises_and_falls():
    rates = [train._schedule(n / 100) for n in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1
    assert rates[100] == pytest.approx(0)
