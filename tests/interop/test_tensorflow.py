"""TensorFlow itself as the judge: it reads what is written here, and is read here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.test_google import SMALL, loaded, tensors_of

from bertsmith.interop.bundle import Bundle, write_bundle
from bertsmith.interop.google import PREFIX, write_google_checkpoint
from bertsmith.model.heads import BertForPreTraining

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip(
    "tensorflow", reason="tensorflow is not installed: pip install 'bertsmith[tensorflow]'"
)
pytestmark = pytest.mark.filterwarnings("ignore")
v1: Any = tf.compat.v1
RNG = np.random.default_rng(0)


def test_tensorflow_reads_equal_tensors(tmp_path: Path) -> None:
    write_google_checkpoint(loaded(BertForPreTraining(SMALL)), tmp_path / "google")
    reader = tf.train.load_checkpoint(str(tmp_path / "google" / PREFIX))
    expected = tensors_of(tmp_path / "google")
    assert reader.get_variable_to_shape_map() == {n: list(t.shape) for n, t in expected.items()}
    for name, tensor in expected.items():
        assert np.array_equal(reader.get_tensor(name), tensor)


def test_tensorflow_reads_an_index_of_several_blocks(tmp_path: Path) -> None:
    names = [f"layer/{'x' * 200}/{number:05}" for number in range(2000)]
    write_bundle(
        tmp_path / "x.ckpt", ((n, np.full((), i, np.float32)) for i, n in enumerate(names))
    )
    reader = tf.train.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert [reader.get_tensor(name) for name in names] == list(range(2000))


def saved(prefix: Path, arrays: dict[str, Any], parted: dict[str, Any]) -> None:
    """Saves variables by TensorFlow's own Saver; those of `parted` in three parts of rows."""
    with tf.Graph().as_default(), v1.Session() as session:
        for name, array in arrays.items():
            v1.get_variable(name, initializer=tf.constant(array), use_resource=False)
        for name, array in parted.items():

            def rows(shape: Any, dtype: Any, partition_info: Any, array: Any = array) -> Any:
                first = partition_info.var_offset[0]
                return tf.constant(array[first : first + shape[0]])

            v1.get_variable(
                name,
                shape=array.shape,
                initializer=rows,
                partitioner=v1.fixed_size_partitioner(3),
                use_resource=False,
            )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix))


def test_what_its_saver_writes_is_read(tmp_path: Path) -> None:
    brain = tf.cast(tf.constant(RNG.standard_normal((6, 2)), tf.float32), tf.bfloat16)
    arrays = {
        "plain": RNG.standard_normal((7, 5)).astype(np.float32),
        "half": RNG.standard_normal((3, 4)).astype(np.float16),
        "brain": brain.numpy(),
        "numbers": RNG.integers(-9, 9, 4).astype(np.int32),
        "global_step": np.int64(77),
        "nothing": np.zeros((0, 3), np.float32),
        "scalar": np.float32(3.5),
    }
    parted = {"parted": RNG.standard_normal((500, 3)).astype(np.float32)}
    saved(tmp_path / "x.ckpt", arrays, parted)
    bundle = Bundle(tmp_path / "x.ckpt")
    assert bundle.tensors.keys() == arrays.keys() | parted.keys()
    for name, array in (arrays | parted).items():
        found = bundle.read(name)
        assert found.shape == array.shape
        assert np.array_equal(found, array.astype(found.dtype))


def test_its_shards_are_read(tmp_path: Path) -> None:
    arrays = {name: RNG.standard_normal((4, 3)).astype(np.float32) for name in ("x", "y")}
    raw = tf.raw_ops
    with tf.Graph().as_default(), v1.Session() as session:
        prefixes = []
        for number, (name, array) in enumerate(arrays.items()):
            prefix = raw.ShardedFilename(
                basename=str(tmp_path / "x.ckpt"), shard=number, num_shards=2
            )
            session.run(
                raw.SaveV2(
                    prefix=prefix,
                    tensor_names=[name],
                    shape_and_slices=[""],
                    tensors=[tf.constant(array)],
                )
            )
            prefixes.append(prefix)
        session.run(
            raw.MergeV2Checkpoints(
                checkpoint_prefixes=tf.stack(prefixes),
                destination_prefix=str(tmp_path / "x.ckpt"),
            )
        )
    bundle = Bundle(tmp_path / "x.ckpt")
    assert len(list(tmp_path.glob("*.data-*-of-00002"))) == 2
    assert all(np.array_equal(bundle.read(name), array) for name, array in arrays.items())


def test_the_bundle_of_a_newer_checkpoint_is_read(tmp_path: Path) -> None:
    array = RNG.standard_normal((5, 4)).astype(np.float32)
    tf.train.Checkpoint(weight=tf.Variable(array)).write(str(tmp_path / "x.ckpt"))
    found = Bundle(tmp_path / "x.ckpt").read("weight/.ATTRIBUTES/VARIABLE_VALUE")
    assert np.array_equal(found, array)
