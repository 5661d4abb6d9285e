"""Weights straight from a trainer to the workers of vLLM servers: by NCCL between GPUs, by gloo elsewhere.

Both ends are here; vLLM's workers import this by name, so that it needs nothing but torch. The group that they form is
apart from all others of either process. Before each weight goes a header of fixed size that says what it is, and after
the last one an empty header.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined] # it is no part of torch's `__all__`

HEADER_BYTES = 512


def open_group(address: str, port: int, rank: int, size: int, device: torch.device, seconds: float) -> Any:  # noqa: ANN401
    """Meet the other processes at rank 0's address, and return the group in which rank 0 sends weights.

    Args:
        address: Where rank 0 listens.
        port: At which port.
        rank: This process, 0 sends.
        size: How many there are.
        device: Where weights lie on this end; all ends are CUDA devices, or none is.
        seconds: How long to wait for the others, at first and for each weight.
    """
    limit = timedelta(seconds=seconds)
    store = TCPStore(address, port, size, rank == 0, limit, wait_for_workers=False)
    if device.type == "cuda":
        patience = distributed.ProcessGroupNCCL.Options()
        patience._timeout = limit
        return distributed.ProcessGroupNCCL(store, rank, size, patience)
    gloo: Any = distributed.ProcessGroupGloo
    settings = gloo._Options()
    settings._timeout = limit
    here = address if rank == 0 or address.startswith("127.") else socket.gethostname()
    settings._devices = [gloo.create_device(hostname=here)]
    return gloo(store, rank, size, settings)


def send(group: Any, weights: Iterable[tuple[str, Tensor]], device: torch.device, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Send weights to all others of the group, one at a time.

    Args:
        group: From `open_group`, as rank 0.
        weights: Name and value of each.
        device: Where they are sent from.
        dtype: What they are sent in.
    """
    for name, value in weights:
        described = {"name": name, "dtype": str(dtype).removeprefix("torch."), "shape": list(value.shape)}
        _broadcast(group, _header(described, device))
        _broadcast(group, value.detach().to(device, dtype).contiguous())
    _broadcast(group, _header({}, device))


def receive(group: Any, device: torch.device) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """Name and value of each weight that rank 0 sends.

    Args:
        group: From `open_group`.
        device: Where to receive.
    """
    while True:
        header = torch.empty(HEADER_BYTES, dtype=torch.uint8, device=device)
        _broadcast(group, header)
        described = json.loads(bytes(header.tolist()))
        if not described:
            return
        value = torch.empty(described["shape"], dtype=getattr(torch, described["dtype"]), device=device)
        _broadcast(group, value)
        yield described["name"], value


def _header(described: dict[str, Any], device: torch.device) -> Tensor:
    text = json.dumps(described).encode().ljust(HEADER_BYTES)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)


def _broadcast(group: Any, tensor: Tensor) -> None:  # noqa: ANN401
    group.broadcast([tensor], distributed.BroadcastOptions()).wait()
    if tensor.is_cuda:
        torch.cuda.current_stream().synchronize()
