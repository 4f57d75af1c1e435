#!/usr/bin/env python3
"""The products of a ViT step in NumPy (OpenBLAS, where NumPy is built on it) and PyTorch (oneDNN), to put beside `bench -- gemm`.

python3 bench/peer_gemm.py [THREADS [ROUNDS [WIDTHS [TOKENS]]]]     (2, 9, 192,384,768 and 3200,4640)

Forward x·wT + b, input gradient dy·w, weight gradient dyT·x. Every round runs every library once; best and median GFLOP/s.
"""
import os
import sys
import time

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(threads)

import numpy
import torch

rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
widths = [int(v) for v in (sys.argv[3] if len(sys.argv) > 3 else "192,384,768").split(",")]
tokens = [int(v) for v in (sys.argv[4] if len(sys.argv) > 4 else "3200,4640").split(",")]
torch.set_num_threads(threads)
torch.set_grad_enabled(False)


def products(m, n, k):
    """(library, product) to a function."""
    found = {}
    for library, dtype in (("OpenBLAS f32", None), ("oneDNN f32", torch.float32), ("oneDNN bf16", torch.bfloat16)):
        x, w, dy = torch.rand(m, k) - 0.5, torch.rand(n, k) - 0.5, torch.rand(m, n) - 0.5
        if dtype is None:
            x, w, dy = x.numpy(), w.numpy(), dy.numpy()
            y, dx, dw, bias = numpy.empty_like(dy), numpy.empty_like(x), numpy.empty_like(w), numpy.zeros(n, numpy.float32)

            def forward(x=x, w=w, y=y, bias=bias):
                numpy.matmul(x, w.T, out=y)
                numpy.add(y, bias, out=y)

            found[library, "forward"] = forward
            found[library, "input gradient"] = lambda dy=dy, w=w, dx=dx: numpy.matmul(dy, w, out=dx)
            found[library, "weight gradient"] = lambda dy=dy, x=x, dw=dw: numpy.matmul(dy.T, x, out=dw)
        else:
            x, w, dy, bias = x.to(dtype), w.to(dtype), dy.to(dtype), torch.zeros(n, dtype=dtype)
            found[library, "forward"] = lambda x=x, w=w, bias=bias: torch.nn.functional.linear(x, w, bias)
            found[library, "input gradient"] = lambda dy=dy, w=w: torch.mm(dy, w)
            found[library, "weight gradient"] = lambda dy=dy, x=x: torch.mm(dy.t(), x)
    return found


print(f"PyTorch {torch.__version__}, NumPy {numpy.__version__}, {threads} threads")
print("| M × N × K | product | library | GFLOP/s best | median |")
print("|---|---|---|---|---|")
for m in tokens:
    for c in widths:
        for n, k in ((3 * c, c), (c, c), (4 * c, c), (c, 4 * c)):
            flops = 2.0 * m * n * k
            found = products(m, n, k)
            speeds = {key: [] for key in found}
            for r in range(-2, rounds):
                for key, run in found.items():
                    calls = max(1, int(2e9 * threads / flops))
                    start = time.perf_counter()
                    for _ in range(calls):
                        run()
                    if r >= 0:
                        speeds[key].append(flops * calls / (time.perf_counter() - start) / 1e9)
            for (library, product), s in sorted(speeds.items(), key=lambda item: (item[0][1], item[0][0])):
                print(f"| {m} × {n} × {k} | {product} | {library} | {max(s):.1f} | {sorted(s)[len(s) // 2]:.1f} |", flush=True)
