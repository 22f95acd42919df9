"""load_task: each data set read back exactly, and each mistake in its files named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.datasets import DATASETS
from neuroprune.tasks.datasets.cifar10 import CLASSES
from neuroprune.tasks.load import load_task
from neuroprune.tasks.make import check_task
from neuroprune.tasks.nets import signal_net, tiny_resnet
from neuroprune.tasks.task import Batches, Task

_RNG = np.random.default_rng(0)


def _savez(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def _stored(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(batches, TensorBatches)
    return batches.tensors[0].numpy(), batches.tensors[1].numpy()


def _refused(spec: str, *parts: str, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        load_task(spec, **options)
    for part in parts:
        assert part in str(caught.value)


def _rows(*splits: Batches) -> list[bytes]:
    return [row.tobytes() for split in splits for row in _stored(split)[0]]


def test_digits_are_sklearns_split_60_20_20() -> None:
    task = load_task("digits", seed=3)
    assert [s.samples for s in (task.train, task.val, task.test)] == pytest.approx([1078, 359.5, 359.5], abs=3)
    expected = load_digits().images.astype(np.float32)
    assert sorted(_rows(task.train, task.val, task.test)) == sorted(row.tobytes() for row in expected)
    assert _rows(task.train) != _rows(load_task("digits", seed=4).train)
    assert task.digest() == load_task("digits", seed=3).digest() != load_task("digits", seed=4).digest()


def test_digits_are_normalised_as_their_notes_say() -> None:
    task = load_task("digits", resize=16, limit=100)
    notes = task.preprocessing
    stored, _ = _stored(task.val)
    batch = next(iter(task.val.epoch(None)))[0].numpy()
    scaled = (stored * notes["scale"] - notes["mean"][0]) / notes["std"][0]
    np.testing.assert_allclose(batch, scaled[: len(batch)], rtol=1e-5, atol=1e-6)
    assert notes["size"] == [16, 16]
    assert stored.shape[1:] == (1, 16, 16)
    assert notes["layout"] == "NCHW"
    assert sum(s.samples for s in (task.train, task.val, task.test)) == 100
    everything = load_task("digits")
    values = np.concatenate([_stored(s)[0] for s in (everything.train, everything.val, everything.test)]) / 16
    assert (values.mean(), values.std()) == pytest.approx((notes["mean"][0], notes["std"][0]), abs=1e-3)
    check_task(task, tiny_resnet())


def test_training_digits_move_and_validation_digits_do_not() -> None:
    task = load_task("digits", resize=16, limit=60)
    first, second, fixed = (next(iter(task.train.epoch(e)))[0] for e in (1, 2, None))
    assert not torch.equal(first, second)
    assert torch.equal(fixed[:2], task.example_inputs[0])
    assert torch.equal(*(next(iter(task.val.epoch(e)))[0] for e in (1, None)))


@pytest.fixture
def mnist_file(tmp_path: Path) -> Path:
    arrays = {
        f"{half}_{kind}": value
        for half, count in (("train", 100), ("test", 30))
        for kind, value in (
            ("x", _RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("y", np.arange(count, dtype=np.uint8) % 10),
        )
    }
    _savez(tmp_path / "mnist.npz", **arrays)
    return tmp_path / "mnist.npz"


def test_mnist_holds_a_tenth_out(mnist_file: Path) -> None:
    task = load_task(f"mnist:{mnist_file}")
    assert [s.samples for s in (task.train, task.val, task.test)] == [90, 10, 30]
    assert sorted(_stored(task.val)[1]) == list(range(10))
    with np.load(mnist_file) as file:
        assert sorted(_rows(task.train, task.val)) == sorted(row.tobytes() for row in file["train_x"])
        assert np.array_equal(_stored(task.test)[0][:, 0], file["test_x"])
        assert np.array_equal(_stored(task.test)[1], file["test_y"])
    assert _stored(task.train)[0].dtype == np.uint8
    few = load_task(f"mnist:{mnist_file}", limit=20)
    assert [s.samples for s in (few.train, few.val, few.test)] == [10, 10, 20]


def test_keras_names_are_understood(mnist_file: Path, tmp_path: Path) -> None:
    with np.load(mnist_file) as file:
        _savez(tmp_path / "keras.npz", **{"_".join(reversed(name.split("_"))): file[name] for name in file})
    assert load_task(f"mnist:{tmp_path / 'keras.npz'}").test.samples == 30


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    _refused("mnist", "mnist needs a path", "mnist:path/to/mnist.npz")
    _refused(f"mnist:{tmp_path}/absent.npz", "there is no file", str(tmp_path))
    (tmp_path / "text.npz").write_text("hello")
    _refused(f"mnist:{tmp_path}/text.npz", "text.npz")
    _savez(tmp_path / "other.npz", images=np.zeros(3))
    _refused(f"mnist:{tmp_path}/other.npz", "lacks the arrays", "it holds images", "train_x/train_y/test_x/test_y")
    np.save(tmp_path / "single.npy", np.zeros(3))
    _refused(f"npz:{tmp_path}/single.npy", "a single array")
    _savez(tmp_path / "objects.npz", x=np.array([{}, {}]), y=np.zeros(2, dtype=int))
    _refused(f"npz:{tmp_path}/objects.npz", "pickled objects")
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    _refused(f"npz:{tmp_path}/half.npz", "no readable npz file")
    images = np.zeros((4, 28, 28), dtype=np.uint8)
    good = {
        "train_x": images,
        "train_y": np.zeros(4, dtype=int),
        "test_x": images,
        "test_y": np.zeros(4, dtype=int),
    }
    _savez(tmp_path / "a.npz", **{**good, "train_x": images[:, :20]})
    _refused(f"mnist:{tmp_path}/a.npz", "train images", "(4, 20, 28)", "[N, 28, 28]")
    _savez(tmp_path / "b.npz", **{**good, "test_y": np.zeros(3, dtype=int)})
    _refused(f"mnist:{tmp_path}/b.npz", "test in b.npz has 4 examples and 3 labels")
    _savez(tmp_path / "c.npz", **{**good, "train_y": np.zeros(4)})
    _refused(f"mnist:{tmp_path}/c.npz", "not one integer per example", "float64")
    _savez(tmp_path / "d.npz", **{**good, "train_x": images[:0], "train_y": np.zeros(0, dtype=int)})
    _refused(f"mnist:{tmp_path}/d.npz", "train in d.npz is empty")


def test_npz_of_ones_own_images(tmp_path: Path) -> None:
    x = _RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    y = np.arange(50) % 5
    _savez(tmp_path / "mine.npz", x=x, y=y)
    task = load_task(f"npz:{tmp_path}/mine.npz")
    assert [s.samples for s in (task.train, task.val, task.test)] == [30, 10, 10]
    expected = sorted(row.transpose(2, 0, 1).tobytes() for row in x)
    assert sorted(_rows(task.train, task.val, task.test)) == expected
    batch = next(iter(task.val.epoch(None)))[0]
    assert (batch.dtype, float(batch.max()) <= 1.0, tuple(batch.shape[1:])) == (torch.float32, True, (3, 8, 8))
    assert load_task(f"npz:{tmp_path}/mine.npz", resize=12).preprocessing["size"] == [12, 12]
    check_task(task, tiny_resnet(channels=3))
    _savez(tmp_path / "split.npz", train_x=x, train_y=y, val_x=x[:7], val_y=y[:7])
    split = load_task(f"npz:{tmp_path}/split.npz")
    assert [s.samples for s in (split.train, split.val, split.test)] == [50, 7, 7]
    assert split.preprocessing["test_is_val"]


def test_npz_of_signals(tmp_path: Path) -> None:
    x = _RNG.normal(size=(40, 2, 30))
    _savez(tmp_path / "ecg.npz", train_x=x, train_y=np.arange(40) % 4, test_x=x[:8], test_y=np.arange(8) % 4)
    task = load_task(f"npz:{tmp_path}/ecg.npz", batch_size=10)
    assert (task.train.samples, task.val.samples, task.test.samples, task.name) == (36, 4, 8, "ecg")
    np.testing.assert_allclose(_stored(task.test)[0], x[:8].astype(np.float32))
    check_task(task, signal_net(channels=2))
    _refused(f"npz:{tmp_path}/ecg.npz", "resize needs images", resize=16)
    _savez(tmp_path / "half.npz", train_x=x, train_y=np.arange(40) % 4, test_x=x)
    _refused(f"npz:{tmp_path}/half.npz", "has test_x but no test_y")
    _savez(tmp_path / "text.npz", x=np.array(["a", "b"]), y=np.arange(2))
    _refused(f"npz:{tmp_path}/text.npz", "neither uint8 images nor floats")


def _jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=75)
    return out.getvalue()


@pytest.fixture
def cifar_zip(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for half, count in (("train", 10), ("test", 3)):
            for name in CLASSES:
                for row in range(count):
                    pixels = _RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    archive.writestr(f"{half}/{name}/{row:05d}.jpg", _jpeg(pixels))
    return tmp_path / "images.zip"


def test_cifar_jpegs_are_decoded_as_pillow_does(cifar_zip: Path) -> None:
    task = load_task(f"cifar10:{cifar_zip}")
    assert task.name == "CIFAR-10 (JPEG q75)"
    assert [s.samples for s in (task.train, task.val, task.test)] == [90, 10, 30]
    x, y = _stored(task.test)
    with zipfile.ZipFile(cifar_zip) as archive:
        for row in (0, 7, 29):
            data = archive.read(f"test/{CLASSES[row // 3]}/{row % 3:05d}.jpg")
            assert np.array_equal(x[row].transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(data))))
    assert np.array_equal(y, np.repeat(np.arange(10), 3))
    assert x.dtype == np.uint8
    few = load_task(f"cifar10:{cifar_zip.parent}", limit=20)
    assert [s.samples for s in (few.train, few.val, few.test)] == [10, 10, 20]
    check_task(few, tiny_resnet(channels=3))


def test_cifar_files_that_cannot_be_used(tmp_path: Path, cifar_zip: Path) -> None:
    (tmp_path / "empty").mkdir()
    _refused(f"cifar10:{tmp_path}/empty", "neither an npz file nor a zip", "folder:DIR")
    (tmp_path / "bad.zip").write_bytes(cifar_zip.read_bytes()[:2000])
    _refused(f"cifar10:{tmp_path}/bad.zip", "no readable zip file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("train/lion/1.jpg", b"")
    _refused(f"cifar10:{tmp_path}/other.zip", "holds no images train/<class>", "airplane")
    for name, data in (("small.zip", _jpeg(np.zeros((8, 8, 3), np.uint8))), ("text.zip", b"hello")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("train/cat/1.jpg", data)
    _refused(f"cifar10:{tmp_path}/small.zip", "train/cat/1.jpg", "not 32x32")
    _refused(f"cifar10:{tmp_path}/text.zip", "train/cat/1.jpg", "no readable image")


def test_real_files(shared_data: Path) -> None:
    lossless = load_task(f"cifar10:{shared_data}/cifar10", limit=100)
    assert lossless.name == "CIFAR-10 (lossless subset)"
    assert [s.samples for s in (lossless.train, lossless.val, lossless.test)] == [90, 10, 100]
    jpeg = load_task(f"cifar10:{shared_data}/cifar10/cifar10_jpeg_q75.zip", limit=40)
    assert [s.samples for s in (jpeg.train, jpeg.val, jpeg.test)] == [30, 10, 40]
    mnist = load_task(f"mnist:{shared_data}/mnist.npz", limit=500, resize=16)
    assert mnist.example_inputs[0].shape == (2, 1, 16, 16)


def _images(
    root: Path, halves: tuple[str, ...] = ("",), *, mode: str = "RGB", size: tuple[int, int] = (6, 5)
) -> Path:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    for half in halves:
        for name in ("cat", "dog"):
            folder = root / half / name
            folder.mkdir(parents=True)
            for row in range(10):
                Image.fromarray(_RNG.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{row}.png")
    return root


def test_a_folder_of_images(tmp_path: Path) -> None:
    root = _images(tmp_path / "pets")
    (root / "cat" / "notes.txt").write_text("not an image")
    task = load_task(f"folder:{root}")
    assert [s.samples for s in (task.train, task.val, task.test)] == [12, 4, 4]
    files = [np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in sorted(root.rglob("*.png"))]
    assert sorted(_rows(task.train, task.val, task.test)) == sorted(files)
    assert task.preprocessing["classes"] == ["cat", "dog"]
    assert task.preprocessing["size"] == [5, 6]
    x, y = _stored(task.test)
    for image, label in zip(x, y, strict=True):
        where = root / ("cat", "dog")[label]
        assert image.transpose(1, 2, 0).tobytes() in {
            np.asarray(Image.open(f)).tobytes() for f in where.glob("*.png")
        }


@pytest.mark.parametrize(
    ("halves", "sizes"),
    [
        (("train", "val", "test"), [20, 20, 20]),
        (("train", "test"), [18, 2, 20]),
        (("train", "val"), [20, 20, 20]),
        (("train",), [12, 4, 4]),
    ],
)
def test_folders_with_splits(tmp_path: Path, halves: tuple[str, ...], sizes: list[int]) -> None:
    task = load_task(f"folder:{_images(tmp_path / 'pets', halves, mode='L')}", resize=8)
    assert [s.samples for s in (task.train, task.val, task.test)] == sizes
    assert task.example_inputs[0].shape == (2, 1, 8, 8)
    assert ("test_is_val" in task.preprocessing) == (halves == ("train", "val"))
    check_task(task, tiny_resnet())


def test_images_of_mixed_size_name_two_and_offer_resize(tmp_path: Path) -> None:
    root = _images(tmp_path / "pets")
    Image.new("L", (9, 7)).save(root / "dog" / "large.png")
    _refused(f"folder:{root}", "differ in size", "0.png is 6x5", "large.png is 9x7", "--resize")
    task = load_task(f"folder:{root}", resize=8)
    assert task.example_inputs[0].shape == (2, 3, 8, 8)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    _refused("folder", "folder needs a path")
    _refused(f"folder:{tmp_path}/absent", "there is no file or folder")
    (tmp_path / "file").write_text("")
    _refused(f"folder:{tmp_path}/file", "is a file")
    (tmp_path / "flat").mkdir()
    _refused(f"folder:{tmp_path}/flat", "no sub-folders")
    root = _images(tmp_path / "pets", ("train", "test"))
    (root / "train" / "bird").mkdir()
    _refused(f"folder:{root}", "class folder 'bird' holds no images", ".png")
    (root / "train" / "bird").rename(root / "test" / "dogs")
    _refused(f"folder:{root}", "'dogs' is in test/ and not in train/", "did you mean 'dog'?")
    (root / "test" / "dogs").rmdir()
    (root / "train" / "cat" / "0.png").write_bytes(b"hello")
    _refused(f"folder:{root}", "0.png is no readable image", "cat")
    good = (root / "train" / "cat" / "1.png").read_bytes()
    (root / "train" / "cat" / "0.png").write_bytes(good[:60])
    _refused(f"folder:{root}", "0.png is no readable image")
    small = tmp_path / "small"
    for name in ("a", "b"):
        (small / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(small / name / "1.png")
    _refused(f"folder:{small}", "too few images to split")


def test_a_value_that_is_not_finite_is_named_in_the_users_array(tmp_path: Path) -> None:
    for shape in ((50, 4), (50, 8, 8, 3)):
        x = _RNG.normal(size=shape).astype(np.float32)
        x[3].flat[2], x[17].flat[0] = float("nan"), float("inf")
        y = np.arange(50) % 5
        where = f"x[3, {', '.join(map(str, np.argwhere(np.isnan(x))[0][1:]))}] in {tmp_path}"
        _savez(tmp_path / "a.npz", x=x, y=y)
        _refused(f"npz:{tmp_path}/a.npz", "holds NaN or Inf", f"where: {where}", "nan (2 values in 2 of 50 rows)")
        _savez(tmp_path / "b.npz", train_x=x[20:], train_y=y[20:], test_x=x[:20], test_y=y[:20])
        _refused(f"npz:{tmp_path}/b.npz", f"where: test_{where}")


def test_a_label_out_of_range_is_named_in_the_users_array(tmp_path: Path, mnist_file: Path) -> None:
    x, y = _RNG.normal(size=(50, 6)), np.arange(50) % 3
    y[7] = -1
    _savez(tmp_path / "a.npz", x=x, y=y)
    _refused(f"npz:{tmp_path}/a.npz", "label is out of range", f"where: y[7] in {tmp_path}", "-1 (1 of 50")
    y[7] = 40  # only the model knows that this is too many
    for names in (("x", "y"), ("train_x", "train_y")):
        _savez(tmp_path / "b.npz", **dict(zip(names, (x, y), strict=True)))
        with pytest.raises(UserError) as caught:
            check_task(load_task(f"npz:{tmp_path}/b.npz"), torch.nn.Linear(6, 3))
        assert caught.value.where == f"{names[1]}[7] in {tmp_path / 'b.npz'} (used for train)"
        assert caught.value.value == 40
    with np.load(mnist_file) as file:
        arrays = {name: file[name].copy() for name in file}
    arrays["test_y"][12] = 10
    _savez(tmp_path / "m.npz", **arrays)
    _refused(f"mnist:{tmp_path}/m.npz", "test_y[12] in", "10 classes are numbered 0..9", "number the classes")


def test_limit_keeps_the_users_rows(tmp_path: Path) -> None:
    y = np.arange(50) % 5
    _savez(tmp_path / "a.npz", x=np.arange(50.0)[:, None], y=y)
    task = load_task(f"npz:{tmp_path}/a.npz", limit=20)
    for split in (task.train, task.val, task.test):
        assert isinstance(split, TensorBatches)
        assert split.origin is not None
        assert split.origin.rows.tolist() == split.tensors[0][:, 0].tolist()


def test_a_folder_with_more_classes_than_the_model(tmp_path: Path) -> None:
    root = _images(tmp_path / "pets")
    with pytest.raises(UserError) as caught:
        check_task(load_task(f"folder:{root}"), tiny_resnet(channels=3, classes=1))
    file = Path(str(caught.value.where).removesuffix(" (used for train)"))
    assert file.parent == root / "dog"
    assert file.is_file()
    assert "2 classes (cat, dog)" in str(caught.value.mend)
    assert "number the classes" not in str(caught.value)


def test_unnamed_classes_are_not_noted(tmp_path: Path) -> None:
    _savez(tmp_path / "a.npz", x=np.zeros((50, 8, 8), np.uint8), y=np.arange(50) % 5)
    assert "classes" not in load_task(f"npz:{tmp_path}/a.npz").preprocessing


def test_unknown_names_offer_the_nearest() -> None:
    _refused("digit", "unknown data set 'digit'", "did you mean 'digits'?")
    _refused("mnits:file.npz", "unknown data set 'mnits'", "did you mean 'mnist'?")
    _refused("digits:16", "digits takes no argument")
    assert {"digits", "mnist", "cifar10", "folder", "npz", "callable"} <= set(DATASETS.names())
    assert all(entry.summary for entry in DATASETS.entries())


_CODE = """
import numpy as np
import torch
import neuroprune.tasks.make as make

def data():
    x = torch.randn(20, 6)
    return {"train": (x, torch.arange(20) % 3), "val": (x, torch.arange(20) % 3), "metric": "hits"}

def task():
    return make.make_task(**data(), name="ready")

def typo():
    return {**data(), "batchsize": 3}

def no_val():
    return {"train": 1}

def number():
    return 3

def broken():
    return {"train": [], "val": []}
"""


def test_data_from_a_callable(tmp_path: Path) -> None:
    file = tmp_path / "mydata.py"
    file.write_text(_CODE)
    task = load_task(f"{file}:data", batch_size=5)
    assert isinstance(task, Task)
    assert (len(task.train), task.metric, task.name) == (4, "hits", f"{file}:data")
    assert task.digest() == load_task(f"{file}:data", batch_size=5).digest(), "a resumed run must find the same"
    assert load_task(f"{file}:task").name == "ready"
    _refused(f"{file}:typo", "unknown key 'batchsize'", "did you mean 'batch_size'?")
    _refused(f"{file}:no_val", "returned no val", "keys train")
    _refused(f"{file}:number", "returned int", "make_task")
    _refused(f"{file}:broken", "the train data is empty")
    _refused(f"{file}:dta", "has no 'dta'", "did you mean 'data'?")
    _refused(f"{file}:data", "resize does not apply", resize=8)
    _refused(f"{tmp_path}/absent.py:data", "there is no file")
