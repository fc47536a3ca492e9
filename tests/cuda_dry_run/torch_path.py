"""The way of each built-in model to a GPU by PyTorch, and of a training step; started by torch.sh, which explains."""

import sys
import time
import warnings
from pathlib import Path

import click
import numpy as np

from benchmarks.gpu.training import _time as time_steps
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.codes.codes import Codes
from train.experiment import load_experiment

ROOT = Path(__file__).parents[2]
Codes.__post_init__ = lambda codes: None  # type: ignore[method-assign]  # they are whatever memory holds
CONFIGS = ("cifar10_counterfactual", "photo_counterfactual_gpu")


@click.command()
@click.option("--model", "models", multiple=True, default=("daps-photo-256", "daps-cifar10", "daps-mnist"))
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"))
@click.option("--batch", default=4, show_default=True)
def main(models: tuple[str, ...], dtypes: tuple[str, ...], batch: int) -> None:
    """Encode, sample, decode, score and search; then make a step of training as it is and as a CUDA graph."""
    warnings.filterwarnings("ignore", "not using the fused choice")  # it is right about a kernel that does nothing
    for model in models:
        for dtype in dtypes:
            tok = Tokenizer.from_pretrained(model, backend="torch", device="cuda", dtype=dtype)
            print(f"== {model}: {tok.backend_info}", flush=True)
            inputs = np.zeros((batch, *tok.input_shape), np.uint8 if tok.modality == "image" else np.float32)
            codes = np.zeros((batch, tok.num_tokens), np.int64)
            calls = {
                "encode": lambda tok=tok, x=inputs: tok.encode(x),
                "sample": lambda tok=tok, x=inputs: tok.sample(x, num_samples=1, seed=0),
                "decode": lambda tok=tok, z=codes: tok.decode(z),
                "log_prob": lambda tok=tok, x=inputs, z=codes: tok.log_prob(x, z),
                "search": lambda tok=tok, x=inputs: tok.encode(x, search=LocalSearch()),
            }
            for name, call in calls.items():
                call()
                start = time.perf_counter()
                call()
                print(f"{name}: the host takes {1e3 * (time.perf_counter() - start):.2f} ms", flush=True)
    for name in CONFIGS:
        print(f"== a step of {name}", flush=True)
        time_steps(load_experiment(ROOT / "train" / "configs" / f"{name}.yaml", ()), batch, 2, captured=True)


if __name__ == "__main__":
    sys.exit(main())
