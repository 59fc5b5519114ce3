"""Memory of large results on the CPU: used again, never shared, bounded, and given back on request."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lada_ext

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere large results have torch's own memory")
MIB = 1 << 20
# Results of ever new sizes, for which kept memory is no use; prints by how many MiB that made the process larger.
NEW_SIZES = """
from test_memory import large, resident_mib
large(20)
before = resident_mib()
held = [large(64), large(64)]
held.clear()
for mib in (40, 52, 81, 105, 33):
    large(mib)
print(resident_mib() - before)
"""
# Two threads want more scratch memory than there is left.
TOO_LITTLE = """
import resource
import torch
import lada_ext
torch.set_num_threads(2)
logits = torch.randn(1, 64, 1_000_000)
lada_ext.consistency_variance(torch.randn(1, 4000, 100))  # begins the threads
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 8 * 2**20,) * 2)
try:
    lada_ext.consistency_variance(logits)
except MemoryError:
    print("told")
"""


def large(mib: int = 24, value: float = 1.0) -> Tensor:
    """A result of the library of this size, full of `value`."""
    row = torch.full((1, MIB // 4), value)
    return lada_ext.beta_mix(row, row, 1.0, mib, lada_ext.make_key(0))[0]


def is_full_of(tensor: Tensor, value: float) -> bool:
    """Up to the rounding of lam + (1 - lam)."""
    return bool(((tensor - value).abs() <= 1e-6 * value).all())


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    lada_ext.release_memory()


def test_it_is_used_again() -> None:
    first = large()
    address = first.data_ptr()
    del first
    assert large().data_ptr() == address
    assert large(22).data_ptr() == address  # within a quarter
    assert large(17).data_ptr() != address


def test_it_is_used_again_page_for_page() -> None:
    """Up to 32 MiB stay as they are, so that writing to them faults no page in."""
    row, key = torch.ones(1, MIB // 4), lada_ext.make_key(0)
    address = lada_ext.beta_mix(row, row, 1.0, 3, key)[0].data_ptr()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert all(lada_ext.beta_mix(row, row, 1.0, 3, key)[0].data_ptr() == address for _ in range(100))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 100  # of 768 pages each


def test_results_in_use_keep_theirs() -> None:
    held = [large(value=float(i)) for i in range(3)]
    del held[1]
    again = large(value=7.0)
    assert is_full_of(again, 7.0)
    assert is_full_of(held[0], 0.0)
    assert is_full_of(held[1], 2.0)


def test_a_view_keeps_the_memory_of_its_result() -> None:
    row = large(value=3.0)[0, 5]
    other = large(value=4.0)
    assert row.data_ptr() != other[0, 5].data_ptr()
    assert is_full_of(row, 3.0)


def test_it_is_given_back_on_request() -> None:
    large(64)
    before = resident_mib()
    lada_ext.release_memory()
    assert before - resident_mib() > 60


def test_what_is_kept_stays_below_the_most_that_was_in_use() -> None:
    """In a process of its own, since what other tests had in use counts too."""
    run = subprocess.run([sys.executable, "-c", NEW_SIZES], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 128 + 16


def test_threads_do_not_share_results() -> None:
    def work(value: float) -> bool:
        results = [large(17, value) for _ in range(4)]
        return all(is_full_of(t, value) for t in results)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [float(i) for i in range(12)]))


def test_a_result_is_an_ordinary_tensor() -> None:
    result = large()
    assert result.clone().equal(result)
    result.resize_(1, 26, MIB // 4)
    assert is_full_of(result[0, :24], 1.0)
    file = io.BytesIO()
    torch.save(result[:, :2], file)
    file.seek(0)
    assert is_full_of(torch.load(file), 1.0)
    assert result.share_memory_().is_shared()


def test_gradients_and_channels_last() -> None:
    image = torch.randn(64, 16, 80, 80).to(memory_format=torch.channels_last).requires_grad_()
    theta = torch.eye(2, 3).expand(64, 2, 3)
    sampled = lada_ext.affine_sample(image, theta)
    assert sampled.is_contiguous(memory_format=torch.channels_last)
    sampled.backward(torch.ones_like(sampled))
    assert image.grad is not None
    torch.testing.assert_close(image.grad, torch.ones_like(image), rtol=1e-4, atol=1e-4)


def test_the_memory_profiler_sees_it() -> None:
    row = torch.ones(1, MIB // 4)
    key = lada_ext.make_key(0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        lada_ext.beta_mix(row, row, 1.0, 24, key)
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.events()) >= 24 * MIB


def test_more_than_there_is_is_an_error() -> None:
    row = torch.ones(1, 1 << 20)
    with pytest.raises(RuntimeError, match="cannot allocate"):
        lada_ext.beta_mix(row, row, 1.0, 1 << 26, lada_ext.make_key(0))


def test_too_little_memory_in_a_thread_is_an_error_and_not_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", TOO_LITTLE], capture_output=True, text=True)
    assert done.stdout == "told\n", done.stderr
