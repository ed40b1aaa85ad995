"""What kernels reach on one NVIDIA card: what the constants of a family of chips stand for, measured without an engine.

    OUT=. python benchmarks/kernel_shares.py         a minute and a half on an H100 or H200 with PyTorch 2.11
    OUT=. python benchmarks/kernel_shares.py --dry   tiny shapes on a CPU: whether it runs

Here: matmuls of a layer that decodes, grouped matmuls of routed experts, attention over a cache, prompts, all of a layer with
and without a CUDA graph, watts by batch. Weights are random and several times the L2 cache; times are medians of graph replays;
watts are the card's energy counter over two seconds at steady state. Writes `kernel_shares.csv`; what two cards gave is
`src/hanse/serving/data/kernel_shares.csv`. Not here: engines, schedulers, several cards.
"""

# ruff: noqa: B023 - every such function runs before its loop goes on.

from __future__ import annotations

import argparse
import csv
import math
import os
import time

import torch

ap = argparse.ArgumentParser()
ap.add_argument("--dry", action="store_true")
ap.add_argument("--limit", type=float, default=330.0)
ARGS = ap.parse_args()
DRY = ARGS.dry
DEV = "cpu" if DRY else "cuda"
T0 = time.time()
BF, F8 = torch.bfloat16, torch.float8_e4m3fn
NAME = "cpu" if DRY else torch.cuda.get_device_name()
RATED_BW = 4.8e12 if "H200" in NAME else 3.35e12
RATED = {"bf16": 989e12, "fp8": 1979e12}
ROWS = []
FIELDS = (
    "part",
    "shape",
    "precision",
    "batch",
    "context",
    "ms",
    "bytes_moved",
    "share_of_bandwidth",
    "tflops",
    "share_of_ops",
    "watts",
    "note",
)
OUT = os.environ.get("OUT", ".")


def left():
    return ARGS.limit - (time.time() - T0)


def add(
    part,
    shape,
    precision="",
    batch=0,
    context=0,
    ms=float("nan"),
    moved=0.0,
    flops=0.0,
    watts="",
    note="",
):
    bw = moved / (ms * 1e-3) / RATED_BW if moved else float("nan")
    tf = flops / (ms * 1e-3) if flops else float("nan")
    row = {
        "part": part,
        "shape": shape,
        "precision": precision,
        "batch": batch,
        "context": context,
        "ms": f"{ms:.5g}",
        "bytes_moved": f"{moved:.4g}",
        "share_of_bandwidth": f"{bw:.4f}",
        "tflops": f"{tf / 1e12:.1f}",
        "share_of_ops": f"{tf / RATED.get(precision, 989e12):.4f}",
        "watts": watts,
        "note": note,
    }
    ROWS.append(row)
    print(" ".join(str(v) for v in row.values()), flush=True)


def save():
    with open(os.path.join(OUT, "kernel_shares.csv"), "w", newline="") as f:
        w = csv.DictWriter(f, FIELDS, lineterminator="\n")
        w.writeheader()
        w.writerows(ROWS)


def rand(*shape, dtype=BF, scale=0.05):
    x = torch.empty(*shape, dtype=BF, device=DEV).normal_(0, scale)
    return x if dtype == BF else x.to(dtype)


def graph_of(fn):
    if DRY:
        fn()
        return fn
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(2):
            fn()
    torch.cuda.current_stream().wait_stream(s)
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        fn()
    return g.replay


def time_ms(run, reps=15):
    if DRY:
        t = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - t)
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    out = []
    for _ in range(reps):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        run()
        b.record()
        b.synchronize()
        out.append(a.elapsed_time(b))
    return sorted(out)[len(out) // 2]


def wall_ms(run, reps=10):
    for _ in range(2):
        run()
    if not DRY:
        torch.cuda.synchronize()
    t = time.perf_counter()
    for _ in range(reps):
        run()
    if not DRY:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - t) / reps


def _run(fn):
    fn()
    if not DRY:
        torch.cuda.synchronize()


class Meter:
    """Mean watts by the card's energy counter."""

    def __init__(self):
        self.h = None
        if not DRY:
            import pynvml

            pynvml.nvmlInit()
            self.n = pynvml
            self.h = pynvml.nvmlDeviceGetHandleByIndex(0)

    def mj(self):
        return self.n.nvmlDeviceGetTotalEnergyConsumption(self.h) if self.h else 0

    def mhz(self):
        return self.n.nvmlDeviceGetClockInfo(self.h, self.n.NVML_CLOCK_SM) if self.h else 0

    def window(self, fn, seconds):
        """Runs fn again and again so long; returns watts, ms a run."""
        if DRY:
            seconds = 0.02
        end, n = time.perf_counter() + 0.3 * seconds, 0
        while time.perf_counter() < end:
            _run(fn)
        e, t = self.mj(), time.perf_counter()
        end = t + seconds
        while time.perf_counter() < end:
            _run(fn)
            n += 1
        dt = time.perf_counter() - t
        return (self.mj() - e) / 1e3 / dt, 1e3 * dt / max(n, 1)


def mm(x, w, precision, one):
    """x [M,K] by w [N,K]."""
    if precision == "bf16":
        return x @ w.t()
    return torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=BF)


DENSE = {
    "Llama-3.1-8B": (4096, 32, 8, 14336, 1),
    "Llama-3.1-70B": (8192, 64, 8, 28672, 1),
    "Llama-3.1-70B/8": (8192, 64, 8, 28672, 8),
}
MOE = {
    "Qwen3-30B-A3B": (2048, 768, 128, 8),
    "Mixtral-8x7B": (4096, 14336, 8, 2),
    "gpt-oss-120b": (2880, 2880, 128, 4),
    "DeepSeek-V3": (7168, 2048, 256, 8),
}
BATCHES = (1, 4, 16, 32, 64, 128, 256, 512)
if DRY:
    DENSE = {"tiny": (64, 4, 2, 128, 1)}
    MOE = {"tiny": (64, 32, 8, 2)}
    BATCHES = (1, 16)
HEAD = 16 if DRY else 128


def shapes_of(h, q, kv, f, tp):
    d = HEAD
    return [((q + 2 * kv) * d // tp, h), (h, q * d // tp), (2 * f // tp, h), (h, f // tp)]


def part_ceilings():
    n = 2**16 if DRY else 2**32
    a = torch.empty(n, dtype=torch.uint8, device=DEV)
    b = torch.empty_like(a)
    a.random_(0, 255)
    ms = time_ms(lambda: b.copy_(a))
    add("copy", "device to device", ms=ms, moved=2.0 * n, note="read and written")
    m = 64 if DRY else 8192
    x, w = rand(m, m), rand(m, m)
    add("matmul", f"{m}^3", "bf16", m, ms=time_ms(lambda: x @ w.t()), flops=2.0 * m**3)
    if not DRY:
        one = torch.ones((), device=DEV)
        x8, w8 = x.to(F8), w.to(F8)
        add(
            "matmul",
            f"{m}^3",
            "fp8",
            m,
            ms=time_ms(lambda: mm(x8, w8, "fp8", one)),
            flops=2.0 * m**3,
        )


def part_dense():
    one = torch.ones((), device=DEV, dtype=torch.float32)
    for name, (h, q, kv, f, tp) in DENSE.items():
        for precision in ("bf16",) if DRY else ("bf16", "fp8"):
            size = 2 if precision == "bf16" else 1
            layer = sum(n * k for n, k in shapes_of(h, q, kv, f, tp)) * size
            copies = 1 if DRY else max(2, math.ceil(1.2e9 / layer))
            ws = [
                [rand(n, k, dtype=BF if size == 2 else F8) for n, k in shapes_of(h, q, kv, f, tp)]
                for _ in range(copies)
            ]
            for batch in BATCHES:
                xs = [
                    rand(batch, k, scale=1.0, dtype=BF if size == 2 else F8)
                    for _, k in shapes_of(h, q, kv, f, tp)
                ]

                def step():
                    for c in ws:
                        for x, w in zip(xs, c, strict=False):
                            mm(x, w, precision, one)

                ms = time_ms(graph_of(step)) / copies
                add(
                    "decode matmuls of a layer",
                    name,
                    precision,
                    batch,
                    ms=ms,
                    moved=layer,
                    flops=2.0 * batch * layer / size,
                )


def part_attention():
    nn = torch.nn.functional
    for heads, kv, name in ((32, 8, "32 heads 8 kv"), (8, 1, "8 heads 1 kv (70B/8)")):
        if DRY:
            heads, kv = 4, 2
        for batch in (1, 8, 32, 128) if not DRY else (2,):
            for context in (1024, 4096, 16384, 32768) if not DRY else (32,):
                size = 2.0 * batch * kv * context * HEAD * 2
                if size > 12e9:
                    continue
                copies = 1 if DRY else max(1, min(8, math.ceil(4e8 / size)))
                ks = [rand(batch, kv, context, HEAD, scale=1.0) for _ in range(2 * copies)]
                qx = rand(batch, kv, heads // kv, HEAD, scale=1.0)

                def step():
                    for i in range(copies):
                        nn.scaled_dot_product_attention(qx, ks[2 * i], ks[2 * i + 1])

                ms = time_ms(graph_of(step)) / copies
                add("decode attention", name, "bf16", batch, context, ms=ms, moved=size)


def grouped(x, w, offs):
    return torch._grouped_mm(x, w, offs=offs)


def routed(tokens, experts, k, skew, gen):
    """Counts of tokens by expert: k of E without repetition; popularity by a Dirichlet (skew) or even."""
    p = (
        torch.ones(experts)
        if not skew
        else torch.distributions.Dirichlet(torch.full((experts,), 1.0)).sample()
    )
    picks = torch.multinomial(p.expand(tokens, experts), k, generator=gen)
    return torch.bincount(picks.flatten(), minlength=experts)


def part_moe():
    gen = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    for name, (h, f, e, k) in MOE.items():
        if left() < 90:
            return
        one_layer = 3.0 * h * f * e * 2
        copies = 1 if DRY else max(1, min(3, math.ceil(2.5e9 / one_layer)))
        up = [
            rand(e, h, 2 * f) if DRY else rand(e, 2 * f, h).transpose(1, 2) for _ in range(copies)
        ]
        down = [rand(e, f, h) if DRY else rand(e, h, f).transpose(1, 2) for _ in range(copies)]
        for batch in BATCHES + (() if DRY else (2048, 8192)):
            for skew in (False, True):
                counts = routed(batch, e, k, skew, gen)
                offs = counts.cumsum(0).to(torch.int32).to(DEV)
                hit = int((counts > 0).sum())
                busiest = int(counts.max())
                x = rand(batch * k, h, scale=1.0)
                y = rand(batch * k, f, scale=1.0)
                moved = 3.0 * h * f * 2 * hit

                def step():
                    for u, d in zip(up, down, strict=False):
                        grouped(x, u, offs)
                        grouped(y, d, offs)

                try:
                    ms = time_ms(graph_of(step), 9) / copies
                except Exception as error:
                    print("grouped failed", name, batch, repr(error)[:200], flush=True)
                    break
                add(
                    "routed experts of a layer",
                    name,
                    "bf16",
                    batch,
                    ms=ms,
                    moved=moved,
                    flops=6.0 * h * f * batch * k,
                    note=f"{'skewed' if skew else 'even'} hit {hit} of {e} by chance {e * (1 - (1 - k / e) ** batch):.1f} busiest {busiest}",
                )
        if not DRY:
            torch.cuda.empty_cache()


def part_prompt():
    nn = torch.nn.functional
    one = torch.ones((), device=DEV, dtype=torch.float32)
    for name, (h, q, kv, f, tp) in list(DENSE.items())[:2]:
        for precision in ("bf16",) if DRY else ("bf16", "fp8"):
            size = 2 if precision == "bf16" else 1
            ws = [rand(n, k, dtype=BF if size == 2 else F8) for n, k in shapes_of(h, q, kv, f, tp)]
            for tokens in (512, 2048, 8192, 16384) if not DRY else (32,):
                if left() < 60:
                    return
                xs = [
                    rand(tokens, k, scale=1.0, dtype=BF if size == 2 else F8)
                    for _, k in shapes_of(h, q, kv, f, tp)
                ]
                ms = time_ms(
                    lambda: [mm(x, w, precision, one) for x, w in zip(xs, ws, strict=False)], 9
                )
                add(
                    "prompt matmuls of a layer",
                    name,
                    precision,
                    tokens,
                    ms=ms,
                    flops=2.0 * tokens * sum(n * k for n, k in shapes_of(h, q, kv, f, tp)),
                )
                if precision == "bf16":
                    qq, kk, vv = (
                        rand(1, q, tokens, HEAD, scale=1.0),
                        rand(1, kv, tokens, HEAD, scale=1.0),
                        rand(1, kv, tokens, HEAD, scale=1.0),
                    )
                    ms = time_ms(
                        lambda: nn.scaled_dot_product_attention(
                            qq, kk, vv, is_causal=True, enable_gqa=True
                        ),
                        9,
                    )
                    add(
                        "prompt attention of a layer",
                        name,
                        "bf16",
                        tokens,
                        tokens,
                        ms=ms,
                        flops=4.0 * q * HEAD * tokens * tokens / 2.0,
                        note="causal half counted",
                    )


class Stack:
    """Layers of Llama-3.1-8B that decode: norms, rotary stand-in, matmuls, attention over a cache, as engines chain them."""

    def __init__(self, layers, precision):
        h, q, kv, f, tp = next(iter(DENSE.values()))
        self.d = (h, q, kv, f)
        self.precision = precision
        self.dtype = BF if precision == "bf16" else F8
        self.ws = [
            [rand(n, k, dtype=self.dtype) for n, k in shapes_of(h, q, kv, f, tp)]
            for _ in range(layers)
        ]
        self.g = torch.ones(h, device=DEV, dtype=BF)
        self.one = torch.ones((), device=DEV, dtype=torch.float32)
        self.bytes = (
            layers
            * sum(n * k for n, k in shapes_of(h, q, kv, f, tp))
            * (2 if precision == "bf16" else 1)
        )

    def lin(self, x, w):
        return mm(x if self.precision == "bf16" else x.to(F8), w, self.precision, self.one)

    def step(self, x, cache):
        nn = torch.nn.functional
        h, q, kv, f = self.d
        b = x.shape[0]
        for i, (wq, wo, wu, wd) in enumerate(self.ws):
            k, v = cache[i % len(cache)]
            a = nn.rms_norm(x, (h,), self.g)
            qkv = self.lin(a, wq)
            qx = qkv[:, : q * HEAD].reshape(b, kv, q // kv, HEAD)
            qx = qx * 0.5 + qx.flip(-1) * 0.5
            k[:, :, -1] = qkv[:, q * HEAD : (q + kv) * HEAD].reshape(b, kv, HEAD)
            v[:, :, -1] = qkv[:, (q + kv) * HEAD :].reshape(b, kv, HEAD)
            a = nn.scaled_dot_product_attention(qx, k, v).reshape(b, q * HEAD)
            x = x + self.lin(a, wo)
            u = self.lin(nn.rms_norm(x, (h,), self.g), wu)
            x = x + self.lin(nn.silu(u[:, :f]) * u[:, f:], wd)
        return x


def part_stack(meter):
    layers = 2 if DRY else 32
    h, q, kv, f, _ = next(iter(DENSE.values()))
    for precision in ("bf16",) if DRY else ("bf16", "fp8"):
        s = Stack(layers, precision)
        for batch in (1, 8, 32, 128, 256, 512) if not DRY else (2,):
            if left() < 35:
                return
            context = 1024 if not DRY else 16
            n = 1 if DRY else max(2, min(16, int(10e9 / (2.0 * batch * kv * context * HEAD * 2))))
            cache = [
                (
                    rand(batch, kv, context, HEAD, scale=1.0),
                    rand(batch, kv, context, HEAD, scale=1.0),
                )
                for _ in range(n)
            ]
            x = rand(batch, h, scale=1.0)
            run = graph_of(lambda: s.step(x, cache))
            moved = s.bytes + layers * 2.0 * batch * kv * context * HEAD * 2
            graph = time_ms(run)
            eager = wall_ms(lambda: s.step(x, cache), 5)
            watts, ms = meter.window(run, 2.2)
            add(
                "decode stack, 32 layers",
                "Llama-3.1-8B without head",
                precision,
                batch,
                context,
                ms=graph,
                moved=moved,
                flops=2.0 * batch * s.bytes / (2 if precision == "bf16" else 1),
                watts=f"{watts:.1f}",
                note=f"eager {eager:.2f} ms; while metered {ms:.3f} ms at {meter.mhz()} MHz",
            )
        tokens = 8192 if not DRY else 16
        x = rand(tokens, h, scale=1.0)
        nn = torch.nn.functional
        qq, kk = rand(1, q, tokens, HEAD, scale=1.0), rand(1, kv, tokens, HEAD, scale=1.0)

        def prompt():
            y = x
            for wq, wo, wu, wd in s.ws[:8]:
                s.lin(y, wq)
                a = nn.scaled_dot_product_attention(qq, kk, kk, is_causal=True, enable_gqa=True)
                y = s.lin(a.reshape(tokens, -1), wo)
                u = s.lin(y, wu)
                y = s.lin(nn.silu(u[:, :f]) * u[:, f:], wd)

        watts, ms = meter.window(prompt, 2.2)
        add(
            "prompt stack, 8 layers",
            "Llama-3.1-8B",
            precision,
            tokens,
            tokens,
            ms=ms,
            flops=2.0 * tokens * s.bytes / (2 if precision == "bf16" else 1) * 8 / layers,
            watts=f"{watts:.1f}",
            note=f"{meter.mhz()} MHz",
        )
        if not DRY:
            torch.cuda.empty_cache()


def part_moe_power(meter):
    h, f, e, k = next(iter(MOE.values()))
    gen = torch.Generator().manual_seed(9)
    copies = 1 if DRY else 12
    up = [rand(e, h, 2 * f) if DRY else rand(e, 2 * f, h).transpose(1, 2) for _ in range(copies)]
    down = [rand(e, f, h) if DRY else rand(e, h, f).transpose(1, 2) for _ in range(copies)]
    for batch in (1, 16, 64, 256) if not DRY else (2,):
        if left() < 15:
            return
        offs = routed(batch, e, k, False, gen).cumsum(0).to(torch.int32).to(DEV)
        x, y = rand(batch * k, h, scale=1.0), rand(batch * k, f, scale=1.0)
        run = graph_of(
            lambda: [
                (grouped(x, u, offs), grouped(y, d, offs)) for u, d in zip(up, down, strict=False)
            ]
        )
        watts, ms = meter.window(run, 2.0)
        add(
            "routed experts, metered",
            next(iter(MOE)),
            "bf16",
            batch,
            ms=ms / copies,
            watts=f"{watts:.1f}",
        )


def main():
    meter = Meter()
    print(NAME, torch.__version__, RATED_BW, flush=True)
    if not DRY:
        e, t = meter.mj(), time.time()
        time.sleep(2.5)
        add("idle", "no context", watts=f"{(meter.mj() - e) / 1e3 / (time.time() - t):.1f}", ms=0.0)
        torch.zeros(1, device=DEV)
        hold = rand(20_000_000_000 // 2)
        torch.cuda.synchronize()
        time.sleep(1.5)
        e, t = meter.mj(), time.time()
        time.sleep(3.0)
        add(
            "idle",
            f"context and {2 * hold.numel() / 1e9:.0f} GB held",
            watts=f"{(meter.mj() - e) / 1e3 / (time.time() - t):.1f}",
            ms=0.0,
            note=f"{meter.mhz()} MHz",
        )
    for part in (
        part_ceilings,
        part_dense,
        part_attention,
        part_moe,
        part_prompt,
        lambda: part_stack(meter),
        lambda: part_moe_power(meter),
    ):
        t = time.time()
        try:
            part()
        except Exception as error:
            print("FAILED", part, repr(error)[:400], flush=True)
        if not DRY:
            torch.cuda.empty_cache()
        print(f"# {time.time() - t:.0f} s, {left():.0f} left", flush=True)
        save()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
