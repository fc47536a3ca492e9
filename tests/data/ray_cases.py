"""A code set on a Ray cluster: shards are spread over its nodes, and a node that is lost costs only time.

test_ray.py runs these tests in a process of their own.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from daps_tokenizer import InputError, Tokenizer
from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.code_sets import CodeSet, merge_shards
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.data.ray import Work, encode_on_ray
from daps_tokenizer.ways import Sampled
from tests.cli.helpers import digit, run

SHARDS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 digits and one broken file."""
    folder = tmp_path_factory.mktemp("ray") / "images"
    folder.mkdir()
    for seed in range(20):
        digit(seed).save(folder / f"{seed:02}.png")
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "600000")  # a busy machine starts slowly
        patch.setenv("RAY_raylet_start_wait_time_s", "600")
        node = {"num_cpus": 1, "object_store_memory": 80 << 20}
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        made.second = made.add_node(**node)
        made.wait_for_nodes(timeout=600)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def test_without_a_cluster_the_error_says_how_to_start_one(random_mnist_folder: Path, images: Path) -> None:
    result = run("dataset", images, "-o", "codes", "--model", random_mnist_folder, "--ray", "auto", "--workers", "2")
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: --ray auto: no cluster there (")
    assert line.endswith("start one with `ray start --head`, or use --ray local")


def test_the_command_fills_a_folder_with_shards_and_resumes(
    cluster: Any, random_mnist_folder: Path, images: Path, tmp_path: Path
) -> None:
    arguments = ["dataset", images, "-o", tmp_path / "codes", "--model", random_mnist_folder, "--ray", cluster.address]
    result = run(*arguments, "--workers", 2)
    assert result.exit_code == 2  # one image is broken
    assert f"{images} -> {tmp_path / 'codes'}  20 x 8 codes in 16 shards, random-mnist, " in result.stdout
    said = f"error: {tmp_path / 'codes'}: 1 of 21 items could not be read; skipped-*.jsonl name them"
    assert result.stderr.splitlines()[-1] == said
    again = json.loads(run(*arguments, "--workers", 1, "--json").stdout)
    assert again["done_now"] == 0 and again["shards"] == 16 and again["shape"] == [20, 8]


def test_an_error_of_a_worker_is_one_line(
    cluster: Any, random_mnist_folder: Path, images: Path, tmp_path: Path
) -> None:
    def open_work() -> Work:
        raise InputError("images: cannot be read here")

    with pytest.raises(Exception, match=r"^images: cannot be read here$"):
        encode_on_ray(open_work, 2, address=cluster.address, workers=1)


def test_a_node_is_lost_in_the_middle_and_the_codes_are_those_of_one_process(
    cluster: Any, random_mnist_folder: Path, images: Path, tmp_path: Path
) -> None:
    tok = Tokenizer.from_pretrained(random_mnist_folder, num_threads=1)
    write_code_set(tok, open_data(images, tok.config), tmp_path / "one", Sampled(2), seed=3)

    def open_work() -> Work:
        here = Tokenizer.from_pretrained(random_mnist_folder, num_threads=1)
        data = open_data(images, here.config)

        def work(shard: Any) -> Any:
            time.sleep(1)  # so that there are unfinished shards when the node is lost
            return write_code_set(here, data, tmp_path / "many", Sampled(2), seed=3, shard=shard)

        return work

    def lose_a_node() -> None:
        while not list((tmp_path / "many").glob("codes-*-of-*.npy")):
            time.sleep(0.1)
        cluster.remove_node(cluster.second, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node)
    losing.start()
    report = encode_on_ray(open_work, SHARDS, address=cluster.address, workers=2)
    losing.join()
    assert (report.rows, report.skipped) == (20, 1)
    merge_shards(tmp_path / "many", tmp_path / "merged")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "merged").iterdir()) and "codes.npy" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes(), name
    np.testing.assert_array_equal(CodeSet.open(tmp_path / "many").values, CodeSet.open(tmp_path / "one").values)
