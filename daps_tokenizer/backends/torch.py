"""PyTorch, from the weights alone.

On the CPU eager passes, which exports are compared with; on NVIDIA GPUs what :mod:`daps_tokenizer.backends.torch_cuda`
makes of it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from daps_tokenizer.backends.batching import encode_chunk, grid_chunk, join, parallel_chunk, slices
from daps_tokenizer.backends.protocol import CellLikelihood, Decoded, Encoded, Scored, SweptCodes
from daps_tokenizer.backends.torch_cuda import GpuEncoder
from daps_tokenizer.backends.torch_sweeps import Sweeps
from daps_tokenizer.errors import BackendError, first_line
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.model.likelihoods import Moments
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import sample_codes
from daps_tokenizer.neighbourhoods import Objective

_DEVICES = ("cpu", "cuda")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_Call = TypeVar("_Call", bound=Callable[..., Any])


def _inference(call: _Call) -> _Call:
    """Without gradients; a GPU that has too little memory is a BackendError."""

    @wraps(call)
    def without_gradients(*arguments: Any, **options: Any) -> Any:
        try:
            with torch.inference_mode():
                return call(*arguments, **options)
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"device 'cuda' cannot be used: its memory is too small ({first_line(error)}); "
                "use a smaller batch, or device='cpu'"
            ) from error

    return cast(_Call, without_gradients)


class TorchBackend:
    """A model in PyTorch. Made by :meth:`open`.

    ``model`` is the network itself, on its device, in evaluation mode.
    """

    name = "torch"
    tiles_per_item = 1

    def __init__(self, model: Autoencoder, *, device: str, dtype: torch.dtype) -> None:
        self.model = model
        self.device = device
        self._dtype = dtype
        self._gpu = (
            GpuEncoder(model, dtype) if device == "cuda" and isinstance(model.recognition, RecognitionModel) else None
        )
        self._parallel_chunk = parallel_chunk(model.config, device)
        self._sweeps = Sweeps(model, device) if device == "cuda" else None

    @classmethod
    def open(
        cls, folder: ModelFolder, *, device: str | None = None, dtype: str = "float32", num_threads: int | None = None
    ) -> TorchBackend:
        """Load ``model.safetensors``; no other file of the model folder is needed. A GPU is used once, to see it work.

        Args:
            folder: a model folder.
            device: ``cpu`` (the default) or ``cuda``.
            dtype: of weights and activations: ``float32``, ``bfloat16`` or ``float16``. Normalisation layers, logits
                and likelihoods are float32 always.
            num_threads: threads of PyTorch, for the whole process; left as it is if None.

        Raises:
            BackendError: a device, dtype or number of threads that cannot be used here.
            ModelFileError: the weights are missing or damaged.
        """
        device = device or "cpu"
        if device not in _DEVICES:
            raise BackendError(f"backend 'torch' knows no device {device!r}; accepted are {', '.join(_DEVICES)}")
        if dtype not in _DTYPES:
            raise BackendError(f"backend 'torch' has no dtype {dtype!r}; accepted are {', '.join(_DTYPES)}")
        if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
            raise BackendError(f"num_threads must be an integer of at least 1, not {num_threads!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendError("device 'cuda' cannot be used: PyTorch finds no NVIDIA GPU here; use device='cpu'")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        model = Autoencoder(folder.config)
        load_weights(model, folder.file("model.safetensors"))
        _use_dtype(model, _DTYPES[dtype])
        model = model.eval().requires_grad_(False)
        if device == "cpu":
            return cls(model, device=device, dtype=_DTYPES[dtype])
        try:
            opened = cls(model.to(device), device=device, dtype=_DTYPES[dtype])
            # A GPU may hold a model and yet run no kernel that this PyTorch was built with.
            opened.decode(np.zeros((1, folder.config.num_tokens), np.int32))
        except BackendError:
            raise
        except Exception as error:  # whatever CUDA, cuDNN or PyTorch say
            raise BackendError(
                f"device 'cuda' cannot be used: PyTorch failed there ({first_line(error)}); use device='cpu'"
            ) from error
        return opened

    @property
    def info(self) -> str:
        """Version, device, precision and, on a GPU, how the loop over positions is run."""
        words = [f"torch {torch.__version__} on {self.device}", str(self._dtype).removeprefix("torch.")]
        if self.device == "cuda":
            words[0] = f"torch {torch.__version__} on {torch.cuda.get_device_name()}"
        if self._gpu is not None:
            words.append(self._gpu.info)
        return ", ".join(words)

    @_inference
    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes; ``uniform`` is (B, N) float32 in [0, 1), temperature 0 is greedy."""
        if self._gpu is not None:
            sampled = self._gpu.encode(inputs, uniform, temperature)
            return Encoded(*_arrays(sampled.codes.int(), sampled.log_probs))
        config, recognition = self.model.config, self.model.recognition
        chunk = encode_chunk(config) if self.device == "cpu" else self._parallel_chunk
        parts = []
        for rows in slices(len(inputs), chunk):
            context = recognition.context(self._standardise(inputs[rows]))
            sampled = sample_codes(recognition, context, self._tensor(uniform[rows]), temperature)
            parts.append(_arrays(sampled.codes.int(), sampled.log_probs))
        return join(Encoded, parts)

    @_inference
    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct from codes (B, N) or (B, rows, columns) int32."""
        parts = []
        for moments in self._moments(codes):
            parts.append(_arrays(self.model.to_input_units(moments.mean), moments.mean, moments.variance))
        return join(Decoded, parts)

    @_inference
    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """As the reconstruction of :meth:`decode`."""
        parts = (self.model.to_input_units(moments.mean) for moments in self._moments(codes))
        first = next(parts)
        if len(first) == len(codes):
            return _arrays(first)[0]
        whole = torch.empty((len(codes), *first.shape[1:]), dtype=first.dtype)
        done = 0
        for part in itertools.chain([first], parts):  # each copied from the GPU to its place
            whole[done : done + len(part)] = part
            done += len(part)
        return _arrays(whole)[0]

    def _moments(self, codes: np.ndarray) -> Iterator[Moments]:
        for rows in slices(len(codes), grid_chunk(self.model.config, codes, self.device)):
            yield self.model.likelihood.moments(self.model.generative(self._tensor(codes[rows])))

    @_inference
    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes (B, N), with the ``k`` ≤ V best, teacher-forced, in one parallel pass."""
        self.model.config.require_probabilities()
        recognition = self.model.recognition
        parts = []
        for rows in slices(len(inputs), self._parallel_chunk):
            context = recognition.context(self._standardise(inputs[rows]))
            given = self._tensor(codes[rows]).long()
            log_q = recognition.logits(context, given).float().log_softmax(-1)
            log_probs = log_q.gather(-1, given[..., None])[..., 0]
            parts.append(_arrays(log_probs, log_q.topk(k).indices.int()))
        return join(Scored, parts)

    @_inference
    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes (B, N) or (B, rows, columns) explain the inputs, cell by cell."""
        parts = []
        for rows in slices(len(codes), grid_chunk(self.model.config, codes, self.device)):
            values = self.model.cell_values(self._standardise(inputs[rows]), self._tensor(codes[rows]))
            parts.append(_arrays(*values))
        return join(CellLikelihood, parts)

    @_inference
    def sweep_on_device(
        self, inputs: np.ndarray, codes: np.ndarray, *, objective: Objective, proposals: int
    ) -> SweptCodes | None:
        """A sweep of local search; the host waits once, at its end. None on a CPU, where nothing is to be gained."""
        if self._sweeps is None:
            return None
        parts = [
            _arrays(*self._sweeps.run(inputs[rows], codes[rows], objective, proposals))
            for rows in slices(len(inputs), self._parallel_chunk)
        ]
        return join(SweptCodes, parts)

    def _standardise(self, inputs: np.ndarray) -> Tensor:
        return self.model.standardise(self._tensor(inputs))

    def _tensor(self, array: np.ndarray) -> Tensor:
        # A copy: PyTorch warns about arrays that must not be written to, and callers pass those.
        return torch.tensor(array, device=self.device)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.cpu().numpy() for tensor in tensors]


def _use_dtype(model: Autoencoder, dtype: torch.dtype) -> None:
    """Hold the networks in ``dtype``, but keep in float32 what loses most by it: normalisation and the logits."""
    if dtype == torch.float32:
        return

    def to_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(tensor.float() for tensor in inputs)

    def to_dtype(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.to(dtype)

    code_books = copy.deepcopy(model.autoregressive.code_books) if model.config.transform is not None else None
    for network in (model.recognition, model.generative):
        network.to(dtype)
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                module.float().register_forward_pre_hook(to_float32)
                module.register_forward_hook(to_dtype)
    model.recognition.head.float()
    if code_books is not None:  # their scores are logits too
        code_books.register_forward_pre_hook(to_float32)
        model.autoregressive.code_books = code_books
