"""Test the histogram and the options of `pegasus-green bench`."""

from __future__ import annotations

import argparse
import random

import pytest

from pegasus_green.cli import bench
from pegasus_green.cli.latencies import Latencies


def exact(values, share):
    return sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_within_a_bucket_of_the_exact_ones(seed):
    chance = random.Random(seed)
    values = [int(chance.lognormvariate(6, 2)) for _ in range(5000)]
    found = Latencies()
    for value in values:
        found.add((value + 0.5) / 1e6)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        wanted = exact(values, share) / 1000
        assert wanted <= found.percentile(share) <= wanted * 1.032
    assert found.percentile(1.0) == found.worst / 1000 == max(values) / 1000


def test_every_microsecond_is_within_its_histogram_bucket():
    for micros in [*range(5000), 2**20 - 1, 2**20, 2**31, 3600 * 10**6]:
        found = Latencies()
        found.add((micros + 0.5) / 1e6)
        found.worst = 2**62  # the upper end of the bucket, not the largest latency
        assert micros <= round(found.percentile(0.5) * 1000) <= micros * 33 / 32


def test_merged_histograms_contain_both():
    one, other = Latencies(), Latencies()
    for _ in range(99):
        one.add(0.001)
    other.add(1.0)
    one.merge(other)
    assert (one.total, one.worst) == (100, 1_000_000)
    assert one.percentile(0.99) < 1.04
    assert one.percentile(1.0) == 1000


def test_no_calls_have_no_latency():
    assert Latencies().percentile(0.99) == 0.0


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("get:9,set:1", {"get": 9, "set": 1}),
        ("get", {"get": 1}),
        ("get, ttl:3,get:2", {"get": 3, "ttl": 3}),
    ],
)
def test_a_mix_is_parsed(text, mix):
    assert bench.parse_mix(text) == mix


@pytest.mark.parametrize("text", ["", "get:0", "get:-1", "get:x", "drop:1", "get:9,,set", "get:1001"])
def test_a_bad_mix_is_refused_by_name(text):
    with pytest.raises(argparse.ArgumentTypeError):
        bench.parse_mix(text)


@pytest.mark.parametrize(
    "words", [["--callers", "0"], ["--seconds", "inf"], ["--seconds", "nan"], ["--value-bytes", "-1"]]
)
def test_bad_numbers_are_refused(words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    bench.add_arguments(parser)
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--meta", "127.0.0.1:1", "--table", "t", *words])
