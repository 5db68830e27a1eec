"""Loaders, on small files that are made in the true formats."""

import gzip
import io
import os
import pickle
import struct

import numpy as np
import pytest

from p2u.errors import FormatError, UsageError
from p2u_lab.base import MissingDataError
from p2u_lab.data.cifar import cifar10, cifar100
from p2u_lab.data.fashion import fashion
from p2u_lab.data.folders import chest_xray, image_folder, imagenet_val
from p2u_lab.data.images import Images, of_array
from p2u_lab.data.medmnist import medmnist
from p2u_lab.data.nih import FINDINGS, nih_chest
from p2u_lab.data.pickles import load_batch
from p2u_lab.data.voc import CLASSES, average_precision, mean_average_precision, voc

image_module = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    return tmp_path


def picture(path, size=(8, 6), colour=(10, 200, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.new("RGB", size, colour).save(path)


def planes(count):
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


# ---------------------------------------------------------------- CIFAR


def cifar10_binary(folder, files, count=3):
    folder.mkdir(exist_ok=True)
    every = []
    for name in files:
        pixels, labels = planes(count), RNG.integers(0, 10, count, dtype=np.uint8)
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
        every.append((pixels, labels))
    return every


def test_cifar10_binary(data):
    names = [f"data_batch_{n}" for n in range(1, 6)]
    made = cifar10_binary(data / "cifar-10-batches-bin", names)
    images = cifar10("train")
    assert len(images) == 15
    assert images.labels.tolist() == [int(x) for _, labels in made for x in labels]
    pixels = images.pixels([4], 32)[0]
    assert np.array_equal(pixels.transpose(2, 0, 1).ravel(), made[1][0][1])
    with pytest.raises(MissingDataError, match=r"lacks test_batch\.bin"):
        cifar10("test")
    with pytest.raises(UsageError):
        cifar10("val")


def test_cifar_binary_of_a_wrong_length(data):
    cifar10_binary(data / "cifar-10-batches-bin", ["test_batch"])
    path = data / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="multiple of 3073"):
        cifar10("test")


def test_cifar_binary_with_a_wrong_label(data):
    (data / "cifar-10-batches-bin").mkdir()
    (data / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(FormatError, match="labels from 10 to 10"):
        cifar10("test")


def test_cifar100_binary_has_coarse_and_fine_labels(data):
    (data / "cifar-100-binary").mkdir()
    pixels = planes(2)
    rows = np.column_stack([np.uint8([19, 3]), np.uint8([99, 42]), pixels])
    (data / "cifar-100-binary" / "test.bin").write_bytes(rows.tobytes())
    images = cifar100("test")
    assert images.labels.tolist() == [99, 42]
    assert len(images.classes) == 100
    assert np.array_equal(images.pixels([1], 32)[0].transpose(2, 0, 1).ravel(), pixels[1])


def python2_pickle(pixels, labels):
    """CIFAR's own files byte for byte in kind: protocol 2 of Python 2, where bytes are str."""

    def text(value):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<I", len(value)) + value

    shape = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b")
    array += b"\x87R(K\x01" + shape
    array += b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    array += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    body = text(b"data") + array + text(b"labels") + numbers
    return b"\x80\x02}(" + body + text(b"batch_label") + text(b"testing batch 1 of 1") + b"u."


def test_cifar10_python(data):
    (data / "cifar-10-batches-py").mkdir()
    path = data / "cifar-10-batches-py" / "test_batch"
    pixels = planes(2)
    path.write_bytes(python2_pickle(pixels, [7, 1]))
    # it is what pickle itself would have read
    real = pickle.loads(path.read_bytes(), encoding="bytes")
    assert np.array_equal(real[b"data"], pixels)
    images = cifar10("test")
    assert images.labels.tolist() == [7, 1]
    assert np.array_equal(images.pixels([1], 32)[0].transpose(2, 0, 1).ravel(), pixels[1])


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar100_python(data, protocol):
    (data / "cifar-100-python").mkdir()
    pixels = planes(2)
    batch = {b"data": pixels, b"fine_labels": [99, 0], b"coarse_labels": [1, 2]}
    path = data / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    images = cifar100("train")
    assert images.labels.tolist() == [99, 0]
    assert np.array_equal(images.pixels([0], 32)[0].transpose(2, 0, 1).ravel(), pixels[0])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"data": Evil()}), "it wants"),
        (pickle.dumps(np.zeros(3)), "not a CIFAR batch"),
        (pickle.dumps([1, 2]), "expected a dictionary"),
        (b"", "not a CIFAR batch"),
        (b"\x80\x02cos\nsystem\nU\x04true\x85R.", "it wants"),
        (b"cnumpy\nndarray\n(I99999999999\ntR.", "not a CIFAR batch"),
        (pickle.dumps({"data": np.array([Evil()], object)}), "not a CIFAR batch"),
        (python2_pickle(np.zeros((2, 3072), np.uint8), [1])[:-40], "not a CIFAR batch"),
    ],
)
def test_pickles_run_nothing(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=said):
        load_batch(path)
    assert not (tmp_path / "evil").exists()


def test_a_pickled_array_must_have_its_shape(tmp_path):
    content = python2_pickle(np.zeros((2, 3072), np.uint8), [1, 2])
    path = tmp_path / "batch"
    path.write_bytes(content.replace(struct.pack("<H", 3072), struct.pack("<H", 3071), 1))
    with pytest.raises(FormatError, match="6144 bytes for an array of shape"):
        load_batch(path)


def jpegs(path, count=4):
    files = []
    for n in range(count):
        stream = io.BytesIO()
        image_module.new("RGB", (32, 32), (n * 60, 0, 0)).save(stream, "JPEG")
        files.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    blob = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, jpeg=blob, offset=offsets, label=np.arange(count, dtype=np.uint8))


def test_cifar10_as_jpegs_comes_last(data):
    jpegs(data / "cifar10-test.npz")
    images = cifar10("test")
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert abs(int(images.pixels([2], 32)[0, 5, 5, 0]) - 120) < 4
    cifar10_binary(data / "cifar-10-batches-bin", ["test_batch"])
    assert len(cifar10("test")) == 3


def test_cifar10_jpegs_with_wrong_offsets(data):
    path = data / "cifar10-test.npz"
    blob = np.zeros(10, np.uint8)
    np.savez(path, jpeg=blob, offset=np.array([0, 20]), label=np.zeros(1, np.uint8))
    with pytest.raises(FormatError, match="offsets to 20"):
        cifar10("test")
    np.savez(path, jpeg=blob, offset=np.array([0, 8, 5]), label=np.zeros(2, np.uint8))
    with pytest.raises(FormatError, match="not joined"):
        cifar10("test")
    np.savez(path, jpeg=blob, offset=np.array([0, 5]), label=np.zeros(1, np.uint8))
    with pytest.raises(FormatError, match="image 0: not an image"):
        cifar10("test").pixels([0], 32)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: cifar10("test"), "cifar-10-binary.tar.gz"),
        (lambda: cifar100("test"), "cifar-100-binary.tar.gz"),
        (lambda: medmnist("test"), "medmnist.com"),
        (lambda: chest_xray("test"), "chest-xray-pneumonia"),
        (lambda: nih_chest("test"), "nihcc"),
        (lambda: voc(2007, "test"), "VOC/voc2007"),
        (imagenet_val, "image-net.org"),
    ],
)
def test_what_is_missing_and_where_it_goes(data, load, said):
    with pytest.raises(MissingDataError) as caught:
        load()
    assert said in str(caught.value)
    assert str(data) in str(caught.value)


# ---------------------------------------------------------------- MedMNIST, Fashion-MNIST


def test_medmnist(data):
    splits = {
        f"{split}_{kind}": value
        for n, split in enumerate(("train", "val", "test"), 1)
        for kind, value in (
            ("images", np.full((n, 28, 28), n, np.uint8)),
            ("labels", np.ones((n, 1), np.uint8)),
        )
    }
    np.savez(data / "pneumoniamnist.npz", **splits)
    images = medmnist("test")
    assert len(images) == 3
    assert images.classes == ("normal", "pneumonia")
    assert images.pixels([0, 1], 28).shape == (2, 28, 28, 3)
    assert (images.pixels([0], 64) == 3).all()


def test_medmnist_of_another_kind(data):
    np.savez(data / "pneumoniamnist.npz", test_images=np.zeros((1, 28, 28)), test_labels=[[0]])
    with pytest.raises(FormatError, match="float64"):
        medmnist("test")
    with pytest.raises(FormatError, match="val_images"):
        medmnist("val")
    (data / "pneumoniamnist.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(FormatError):
        medmnist("test")


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_fashion(data, packed):
    folder = data / "fashion-mnist"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for name, array in (
        ("t10k-images-idx3-ubyte", pixels),
        ("t10k-labels-idx1-ubyte", np.array([9, 0, 3])),
    ):
        content = gzip.compress(idx(array)) if packed else idx(array)
        (folder / (name + (".gz" if packed else ""))).write_bytes(content)
    images = fashion("test")
    assert images.labels.tolist() == [9, 0, 3]
    assert np.array_equal(images.pixels([2], 28)[0, ..., 1], pixels[2])


def test_fashion_missing(tmp_path):
    with pytest.raises(MissingDataError, match="apt install dataset-fashion-mnist"):
        fashion("test", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", idx(np.zeros((2, 28, 28)))[:-1], b"\0\0\x0d\x03" + bytes(12), b"\x1f\x8b"]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_broken(tmp_path, content, suffix):
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    with pytest.raises(FormatError):
        fashion("test", tmp_path)


# ---------------------------------------------------------------- folders


def test_image_folder(tmp_path):
    picture(tmp_path / "b" / "1.JPEG")
    picture(tmp_path / "b" / "deep" / "2.png")
    picture(tmp_path / "a" / "x.jpg", colour=(255, 0, 0))
    (tmp_path / "a" / "._x.jpg").write_bytes(b"macOS")
    (tmp_path / "a" / "notes.txt").write_text("")
    images = image_folder(tmp_path)
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.pixels([0], 4)[0, 0, 0].tolist() == [254, 0, 0]


def test_chest_xray(data):
    for split in ("train", "test"):
        picture(data / "chest_xray" / split / "NORMAL" / "IM-0001.jpeg")
        picture(data / "chest_xray" / split / "PNEUMONIA" / "person1_virus_6.jpeg")
    assert chest_xray("test").labels.tolist() == [0, 1]
    with pytest.raises(MissingDataError, match="val has no folders of images"):
        chest_xray("val")
    picture(data / "chest_xray" / "test" / "COVID" / "1.jpeg")
    with pytest.raises(FormatError, match="COVID"):
        chest_xray("test")


def test_imagenet_in_folders_and_with_kaggles_table(data):
    root = data / "imagenet"
    picture(root / "val" / "n02" / "ILSVRC2012_val_00000002.JPEG")
    picture(root / "val" / "n01" / "ILSVRC2012_val_00000001.JPEG")
    assert imagenet_val().classes == ("n01", "n02")
    for n in (1, 2):
        picture(root / "val" / f"ILSVRC2012_val_0000000{n}.JPEG")
    table = "ImageId,PredictionString\nILSVRC2012_val_00000001,n03 85 1 499 272 n03 1 2 3 4 \n"
    table += "ILSVRC2012_val_00000002,n01 1 2 3 4\nILSVRC2012_val_00000003,n01 1 2 3 4\n"
    (root / "LOC_val_solution.csv").write_text(table)
    assert imagenet_val().labels.tolist() == [1, 0]
    (root / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca\nn02 shark\nn03 ray, skate\n")
    images = imagenet_val()
    assert images.labels.tolist() == [2, 0]
    assert len(images.classes) == 3
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="ImageId"):
        imagenet_val()


def test_resizing_keeps_the_middle():
    pixels = np.zeros((1, 10, 30, 3), np.uint8)
    pixels[:, :, 10:20] = 200
    images = of_array(pixels, np.zeros(1, np.int64), ("x",), "made")
    assert (images.pixels([0], 10) == 200).all()
    assert images.pixels([], 10).shape == (0, 10, 10, 3)


def test_taking_some():
    images = of_array(
        np.arange(5, dtype=np.uint8).repeat(4).reshape(5, 2, 2),
        np.arange(5),
        tuple("abcde"),
        "made",
    ).take(np.array([3, 1, 4]))
    assert isinstance(images, Images)
    assert images.labels.tolist() == [3, 1, 4]
    assert images.take(np.array([1])).pixels([0], 2)[0, 0, 0].tolist() == [1, 1, 1]


# ---------------------------------------------------------------- NIH, VOC


def test_nih(data):
    root = data / "nih-chest-xray"
    for name in ("00000001_000", "00000002_000"):
        picture(root / "images" / f"{name}.png")
    picture(root / "images_002" / "images" / "00000003_000.png")
    rows = ["Image Index,Finding Labels,Follow-up #", "00000001_000.png,Cardiomegaly|Emphysema,0"]
    rows += ["00000002_000.png,No Finding,0", "00000003_000.png,Hernia,1", "9.png,Mass,0"]
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (root / "test_list.txt").write_text("00000003_000.png\n00000001_000.png\n9.png\n")
    (root / "train_val_list.txt").write_text("00000002_000.png\n")
    images = nih_chest("test")
    assert len(images) == 2  # 9.png is not there
    assert [FINDINGS[n] for n in np.flatnonzero(images.labels[0])] == ["Hernia"]
    assert images.labels[1].sum() == 2
    assert nih_chest("train").labels.sum() == 0
    (root / "Data_Entry_2017.csv").write_text(rows[0] + "\n9.png,Flu,0\n")
    with pytest.raises(FormatError, match="Flu"):
        nih_chest("test")


def voc_files(root, labels):
    """``labels``: image -> {class: "1" or "0"}; all others are "-1"."""
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for name in CLASSES:
        lines = [f"{image} {found.get(name, '-1'):>2}" for image, found in labels.items()]
        (main / f"{name}_test.txt").write_text("\n".join(lines) + "\n")
    for image in labels:
        picture(root / "JPEGImages" / f"{image}.jpg")


def test_voc(data):
    root = data / "VOCdevkit" / "VOC2007"
    voc_files(root, {"000001": {"dog": "1", "person": "1"}, "000002": {"train": "0"}})
    images = voc(2007, "test")
    assert images.labels.shape == (2, 20)
    assert images.labels[0, CLASSES.index("dog")] == 1
    assert images.labels[1, CLASSES.index("train")] == -1
    assert (images.labels == 1).sum() == 2
    with pytest.raises(MissingDataError, match="aeroplane_val"):
        voc(2007, "val")
    with pytest.raises(UsageError, match="2008"):
        voc(2008, "test")
    (root / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(MissingDataError, match="1 of 2 images"):
        voc(2007, "test")


@pytest.mark.parametrize("line", ["000001 2", "000001", "../x 1", "000009 1"])
def test_voc_lists_that_are_wrong(data, line):
    root = data / "VOCdevkit" / "VOC2012"
    voc_files(root, {"000001": {}})
    (root / "ImageSets" / "Main" / "dog_test.txt").write_text(line + "\n")
    with pytest.raises(FormatError):
        voc(2012, "test")


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    labels = np.array([1, 0, 1, 0])
    # right at ranks 1 and 3: precisions 1 and 2/3
    assert average_precision(scores, labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(scores, labels, eleven=True) == pytest.approx((6 + 5 * 2 / 3) / 11)
    # a difficult item counts neither way, wherever it ranks
    hard = np.array([1, -1, 1, 0])
    assert average_precision(scores, hard) == 1
    assert average_precision(scores, hard, eleven=True) == 1
    assert np.isnan(average_precision(scores, np.zeros(4, np.int64)))


def test_the_mean_is_of_classes_that_are_there():
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3]])
    labels = np.array([[1, 1, 0], [0, 0, 0]])
    assert mean_average_precision(scores, labels) == pytest.approx((1 + 0.5) / 2)


def test_eleven_points_reach_recalls_that_floats_miss():
    # with 10 of 10 right, recall 0.3 is 3/10, which no float is
    ranks = np.arange(10, 0, -1).astype(float)
    assert average_precision(ranks, np.ones(10, np.int64), eleven=True) == 1
